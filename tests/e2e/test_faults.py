"""Real faults of real runs: noticed within their bound, named right, nothing left, and gone on from where it can be.

tests/run/test_faults.py has those that need no VeRL, tests/watch the rules one by one.
"""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from posttrain_verl.machine.processes import process_name
from posttrain_verl.run import ray_state, record
from posttrain_verl.watch.machine_rules import GIB, memory_left

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
BOUND = 15  # seconds until a dead process must be noticed, on a machine that has the time
REWARDS = Path(__file__).parent


def after(step):
    """The time at which metrics.jsonl has the step."""
    return lambda folder: folder.metrics.exists() and f'"step":{step},'.encode() in folder.metrics.read_bytes()


def actor(folder, name):
    return next(one.pid for one in ray_state.read_members(folder.cluster_file) if one.name.endswith(name))


def engine(folder):
    """vLLM's engine core, by the title that vLLM gives it."""
    known = [one.pid for one in record.read_record(folder).processes]
    return next(pid for pid in known if process_name(pid).startswith("VLLM::EngineCore"))


class Blow:
    """A signal to a process of the run, and when it was sent."""

    def __init__(self, find, number=signal.SIGKILL):
        self._find, self._number, self.sent = find, number, 0.0

    def __call__(self, supervisor, folder):
        self.sent = time.time()
        os.kill(self._find(folder), self._number)


def test_a_dead_engine_is_noticed_and_the_run_goes_on_by_itself(launch, bound):
    """VeRL waits for ever for an engine that died in the weight sync, without a line in its log."""
    blow = Blow(engine)
    run = launch("math_grpo", "trainer.total_training_steps=12", "trainer.save_freq=2", "posttrain.watch.retries=1",
                 at=after(3), strike=blow)  # fmt: skip
    dead = next(event for event in run.events if event["rule"] == "dead")
    assert dead["time"] - blow.sent <= bound(BOUND)
    assert "VLLM::EngineCore" in dead["saw"] or "EngineDeadError" in dead["saw"]
    run.assert_done(list(range(1, 13)))
    assert run.logged_steps == list(range(1, 13))
    run.assert_rollouts_follow()
    assert not run.segments


def raylet(folder):
    """The raylet of the run, within a tenth of a second: its record names it up to two later, when it may have registered."""
    known = record.read_record(folder)
    for one in psutil.process_iter(["name", "cmdline"]) if known else ():
        if one.info["name"] == "raylet" and known.folders[0] in " ".join(one.info["cmdline"] or ()):
            return one.pid
    return None


def test_a_raylet_that_does_not_outlive_the_start(launch):
    """Ray ends it where its agents are slow, as on a busy machine. Nothing is lost yet: the driver starts another."""
    run = launch("math_sft", at=lambda folder: raylet(folder) is not None, strike=Blow(raylet))
    run.assert_done([1, 2])
    assert (run.status.attempt, run.events) == (1, [])
    assert "Ray did not come up" in run.folder.log.read_text()


def test_a_dead_storage_actor_and_going_on_from_an_older_checkpoint(launch, go_on, bound):
    blow = Blow(lambda folder: actor(folder, "SimpleStorageUnit"))
    run = launch("math_grpo", "trainer.total_training_steps=7", "trainer.save_freq=2", at=after(4), strike=blow)
    assert run.code == 1
    assert run.status.rule == "dead", run.explained()
    assert "SimpleStorageUnit" in run.status.why
    assert run.events[-1]["time"] - blow.sent <= bound(BOUND)
    assert not run.segments
    later = [step for step in (4, 6) if (run.folder.checkpoints / f"global_step_{step}").exists()]
    for step in later:
        shard = next(run.folder.checkpoints.glob(f"global_step_{step}/actor/optim_*_rank_0.pt"))
        shard.write_bytes(shard.read_bytes()[:-100])
    resumed = go_on(run)
    resumed.assert_done([1, 2, 3, 4, 5, 6, 7])
    assert resumed.logged_steps == [1, 2, 3, 4, 5, 6, 7]
    assert any("not from global_step_4" in line for line in resumed.lines)
    assert any(line.endswith("global_step_2") for line in resumed.lines)


def test_a_dead_worker(launch, bound):
    blow = Blow(lambda folder: actor(folder, "WorkerDict"))
    run = launch("math_grpo", "trainer.total_training_steps=500", "trainer.save_freq=-1", at=after(1), strike=blow)
    assert run.code == 1
    assert run.status.rule == "dead", run.explained()
    assert "WorkerDict" in run.status.why
    assert run.events[-1]["time"] - blow.sent <= bound(BOUND)
    assert not run.segments


def test_a_stopped_worker(launch, bound):
    blow = Blow(lambda folder: actor(folder, "WorkerDict"), signal.SIGSTOP)
    run = launch("math_grpo", "trainer.total_training_steps=500", "trainer.save_freq=-1",
                 "posttrain.watch.stopped.seconds=5", at=after(1), strike=blow)  # fmt: skip
    assert run.code == 1
    assert run.status.rule == "stopped"
    assert "WorkerDict" in run.status.why
    assert run.events[-1]["time"] - blow.sent <= bound(5 + BOUND)
    assert run.status.ended - run.events[-1]["time"] <= bound(30)
    assert not run.segments


def test_a_reward_that_hangs(launch, bound):
    run = launch("math_grpo", f"reward.custom_reward_function.path={REWARDS / 'hanging_reward.py'}",
                 "posttrain.watch.silence.seconds=15", "posttrain.watch.silence.longest_steps=0")  # fmt: skip
    assert run.code == 1
    event = run.events[-1]
    assert (event["rule"], event["stage"], event["step"]) == ("silence", "reward", 1)
    silent = re.search(r"no sign of life for (\d+) s \(limit 15 s\); looked for: log ", event["saw"])
    assert silent and int(silent[1]) <= 15 + bound(10)
    assert "compute_score (" in event["why"]
    assert "compute_score" in (run.folder.path / "stacks.txt").read_text()
    assert run.status.ended - event["time"] <= bound(30)
    assert not run.segments


def test_a_reward_that_leaks(launch, bound):
    """Of 9 GiB that may be used from now on, a run of the tiny model takes about four, and the reward the rest."""
    until = memory_left()[0].left / GIB - 9
    if until < 1:
        pytest.skip("too little memory is free for a leak to be told from the run itself")
    run = launch("math_grpo", f"reward.custom_reward_function.path={REWARDS / 'leaking_reward.py'}",
                 "posttrain.watch.host_memory.below=1", f"posttrain.watch.host_memory.below_gib={until:.4f}",
                 "posttrain.watch.retries=3", variables={"POSTTRAIN_TEST_UNTIL": f"{until:.4f}"})  # fmt: skip
    assert run.code == 1
    event = run.events[-1]
    assert (event["rule"], event["step"], run.status.attempt) == ("host_memory", 1, 1), "no restart heals it"
    pid, leaked = (run.folder.path / "leaked").read_text().split()
    assert f"ray::RewardLoopWorker (pid {pid}) holds" in event["saw"]
    assert event["time"] - float(leaked) <= bound(BOUND)
    assert run.status.ended - event["time"] <= bound(30)
    assert not run.segments


def test_a_port_that_is_taken_and_given_back(launch):
    """The reward is a client of its own server, whose port is another program's until the first attempt has failed."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        run = launch("math_grpo", f"reward.custom_reward_function.path={REWARDS / 'serving_reward.py'}",
                     "posttrain.skip=[rewards]", "posttrain.watch.retries=1",  # a check would find the port taken, too
                     variables={"POSTTRAIN_TEST_PORT": str(other.getsockname()[1])},
                     at=lambda folder: folder.events.exists() and '"rule": "retry"' in folder.events.read_text(),
                     strike=lambda supervisor, folder: other.close())  # fmt: skip
    run.assert_done([1, 2])
    assert run.status.attempt == 2
    retry = next(event for event in run.events if event["rule"] == "retry")
    assert "Address already in use" in retry["saw"]


def test_a_gradient_of_exactly_zero(launch):
    """What an adapter adds is multiplied by alpha: with 0 it has no influence, and no gradient."""
    run = launch("math_sft_lora", "model.lora_alpha=0", "posttrain.skip=[values]", "posttrain.watch.retries=3",
                 "trainer.total_training_steps=500", "trainer.save_freq=-1")  # fmt: skip
    assert run.code == 1
    assert (run.status.rule, run.status.attempt) == ("zero_gradient", 1), "no restart heals it"
    stop = run.events[-1]
    assert (stop["step"], stop["stage"]) == (2, "update") and "train/grad_norm is exactly 0" in stop["saw"]
    assert all(metrics["train/loss"] > 0 for metrics in run.metrics.values())


def test_a_reward_that_is_constant(launch):
    run = launch("math_grpo", f"reward.custom_reward_function.path={REWARDS / 'constant_reward.py'}",
                 "trainer.total_training_steps=500", "trainer.save_freq=-1", "posttrain.watch.no_variance.steps=2")  # fmt: skip
    assert run.code == 1
    assert run.status.rule == "no_variance"
    stops = [(event["rule"], event["step"]) for event in run.events if event["level"] == "stop"]
    assert stops == [("no_variance", 2)], "no zero_gradient; the run may end a step later"


def test_a_loss_that_is_nan(launch):
    run = launch("math_sft", "optim.lr=1e38", "posttrain.skip=[values]", "trainer.total_training_steps=500",
                 "trainer.save_freq=-1", "posttrain.watch.retries=3")  # fmt: skip
    assert run.code == 1
    assert run.status.rule == "non_finite"
    assert run.status.attempt == 1, "no restart heals it"


def test_a_killed_driver_at_the_end_of_an_epoch_and_the_same_metrics_after(launch, go_on, shared, tmp_path, bound):
    """Going on from step 2 of epochs of 2 steps: as VeRL 0.9.1 restores its data loader, epoch 2 would train nothing."""
    whole = Path(shared["POSTTRAIN_TEST_DATA"], "embedded", "sft_train.parquet")
    if not whole.exists():
        launch("math_sft")
    rows = tmp_path / "rows.parquet"
    pq.write_table(pq.read_table(whole).slice(0, 16), rows)
    words = ["math_sft", f"data.train_files={rows}", "trainer.total_training_steps=12", "trainer.total_epochs=6",
             "trainer.save_freq=2", "trainer.test_freq=-1"]  # fmt: skip
    undisturbed = launch(*words)
    steps = list(range(1, 13))
    undisturbed.assert_done(steps)
    blow = Blow(lambda folder: folder.read_status().pid)
    killed = launch(*words, at=after(3), strike=blow)
    assert killed.code == 1
    assert killed.status.ended - blow.sent <= bound(BOUND)
    resumed = go_on(killed)
    assert any(re.search(r"resuming from .*global_step_\d*[02468]$", line) for line in resumed.lines)
    resumed.assert_done(steps)
    assert resumed.logged_steps == steps
    for step, metrics in undisturbed.metrics.items():
        for key in ("train/loss", "train/grad_norm", "train/lr", "train/global_tokens"):
            assert resumed.metrics[step][key] == pytest.approx(metrics[key], rel=1e-5), (step, key)


def test_a_killed_supervisor_takes_the_run_with_it(launch, shared, monkeypatch, told):
    """What Ray left in its folder, a socket among it, is cleared by the next start."""
    run = launch("math_sft", "trainer.total_training_steps=500", "trainer.save_freq=-1", at=after(1),
                 strike=lambda supervisor, folder: supervisor.kill())  # fmt: skip
    assert run.code == -signal.SIGKILL
    stale = Path(record.read_record(run.folder).folders[0])
    assert list(stale.glob("ray/session_*"))
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(stale / "left"))
    monkeypatch.setenv("POSTTRAIN_CACHE", shared["POSTTRAIN_CACHE"])
    record.clear_dead_runs()
    assert any(line.startswith(f"clearing what the dead run {run.folder.path} left") for line in told)
    assert not stale.exists()
    assert run.status.state == "failed"
    record.folder_lock(run.folder).acquire(timeout=0)


def test_a_disk_that_is_full_when_a_checkpoint_is_written(launch, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")

    def fill(supervisor, folder):
        with (small / "filler").open("wb") as file:
            file.write(b"\0" * (small_free(small) - 100_000))

    try:
        run = launch("math_sft", f"trainer.default_local_dir={small}", "trainer.total_training_steps=500",
                     "trainer.save_freq=100", "posttrain.watch.disk.do=off", at=after(1), strike=fill)  # fmt: skip
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
    assert run.code == 1
    assert "No space left on device" in run.status.why or "iostream error" in run.status.why, run.explained()


def small_free(folder):
    return os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
