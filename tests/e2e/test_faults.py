"""Real faults of real runs: noticed within their bound, named right, nothing left, and gone on from where it can be.

tests/run/test_faults.py has those that need no VeRL, tests/watch the rules one by one.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from posttrain_verl.run import roster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
BOUND = 15  # seconds until a dead process must be noticed
REWARDS = Path(__file__).parent


def after(step):
    """The time at which metrics.jsonl has the step."""
    return lambda folder: folder.metrics.exists() and f'"step":{step},'.encode() in folder.metrics.read_bytes()


def actor(folder, name):
    return next(one.pid for one in roster.read(folder.cluster_file) if one.name.endswith(name))


def engine(folder):
    """vLLM's engine core: the fork behind the youngest process that its server started with the warm Python."""
    forks = Path(os.environ.get("POSTTRAIN_WARM_PYTHON") or _warm(folder)).parent / "forks"
    children = psutil.Process(actor(folder, "vLLMHttpServer")).children()
    clients = [child for child in children if (forks / str(child.pid)).exists()]
    return int((forks / str(max(clients, key=lambda child: child.create_time()).pid)).read_text())


def _warm(folder):
    driver = psutil.Process(folder.read_status().pid)
    return driver.environ()["POSTTRAIN_WARM_PYTHON"]


class Blow:
    """A signal to a process of the run, and when it was sent."""

    def __init__(self, find, number=signal.SIGKILL):
        self._find, self._number, self.sent = find, number, 0.0

    def __call__(self, supervisor, folder):
        self.sent = time.time()
        os.kill(self._find(folder), self._number)


def test_a_dead_engine_is_noticed_and_the_run_goes_on_by_itself(launch):
    """VeRL waits for ever for an engine that died in the weight sync, without a line in its log."""
    blow = Blow(engine)
    run = launch("math_grpo", "trainer.total_training_steps=12", "trainer.save_freq=2", "posttrain.watch.retries=1",
                 at=after(3), strike=blow)  # fmt: skip
    dead = next(event for event in run.events if event["rule"] == "dead")
    assert dead["time"] - blow.sent <= BOUND
    assert "an engine process of vLLMHttpServer" in dead["saw"] or "EngineDeadError" in dead["why"]
    run.assert_done(list(range(1, 13)))
    assert run.logged_steps == list(range(1, 13))
    run.assert_rollouts_follow()
    assert not run.segments


def test_a_dead_storage_actor_and_going_on_from_an_older_checkpoint(launch, go_on):
    blow = Blow(lambda folder: actor(folder, "SimpleStorageUnit"))
    run = launch("math_grpo", "trainer.total_training_steps=5", "trainer.save_freq=2", at=after(4), strike=blow)
    assert run.code == 1
    assert run.status.rule == "dead", run.explained()
    assert "SimpleStorageUnit" in run.status.why
    assert run.events[-1]["time"] - blow.sent <= BOUND
    assert not run.segments
    newest = run.folder.checkpoints / "global_step_4" / "actor" / "optim_world_size_2_rank_0.pt"
    newest = newest if newest.exists() else newest.with_name("optim_world_size_1_rank_0.pt")
    newest.write_bytes(newest.read_bytes()[:-100])
    resumed = go_on(run)
    resumed.assert_done([1, 2, 3, 4, 5])
    assert resumed.logged_steps == [1, 2, 3, 4, 5]
    assert any("not from global_step_4" in line for line in resumed.lines)
    assert any(line.endswith("global_step_2") for line in resumed.lines)


def test_a_dead_worker(launch):
    blow = Blow(lambda folder: actor(folder, "WorkerDict"))
    run = launch("math_grpo", "trainer.total_training_steps=500", "trainer.save_freq=-1", at=after(1), strike=blow)
    assert run.code == 1
    assert run.status.rule == "dead", run.explained()
    assert "WorkerDict" in run.status.why
    assert run.events[-1]["time"] - blow.sent <= BOUND
    assert not run.segments


def test_a_stopped_worker(launch):
    blow = Blow(lambda folder: actor(folder, "WorkerDict"), signal.SIGSTOP)
    run = launch("math_grpo", "trainer.total_training_steps=500", "trainer.save_freq=-1",
                 "posttrain.watch.stopped.seconds=5", at=after(1), strike=blow)  # fmt: skip
    assert run.code == 1
    assert run.status.rule == "stopped"
    assert "WorkerDict" in run.status.why
    assert run.events[-1]["time"] - blow.sent <= 5 + BOUND
    assert run.status.ended - run.events[-1]["time"] <= 30
    assert not run.segments


def test_a_reward_that_hangs(launch):
    run = launch("math_grpo", f"reward.custom_reward_function.path={REWARDS / 'hanging_reward.py'}",
                 "posttrain.watch.silence.seconds=12", "posttrain.watch.silence.longest_steps=0")  # fmt: skip
    assert run.code == 1
    event = run.events[-1]
    assert (event["rule"], event["stage"], event["step"]) == ("silence", "reward", 1)
    assert "compute_score (" in event["why"]
    assert "compute_score" in (run.folder.path / "stacks.txt").read_text()
    assert run.status.ended - event["time"] <= 30
    assert not run.segments


def test_a_reward_that_is_constant(launch):
    run = launch("math_grpo", f"reward.custom_reward_function.path={REWARDS / 'constant_reward.py'}",
                 "trainer.total_training_steps=500", "trainer.save_freq=-1", "posttrain.watch.no_variance.steps=2")  # fmt: skip
    assert run.code == 1
    assert (run.status.rule, run.status.last_step) == ("no_variance", 2)
    assert {event["rule"] for event in run.events if event["level"] == "stop"} == {"no_variance"}, "no zero_gradient"


def test_a_loss_that_is_nan(launch):
    run = launch("math_sft", "optim.lr=1e38", "posttrain.skip=[values]", "trainer.total_training_steps=500",
                 "trainer.save_freq=-1", "posttrain.watch.retries=3")  # fmt: skip
    assert run.code == 1
    assert run.status.rule == "non_finite"
    assert run.status.attempt == 1, "no restart heals it"


def test_a_killed_driver_at_the_end_of_an_epoch_and_the_same_metrics_after(launch, go_on, shared, tmp_path):
    """Going on from step 2 of epochs of 2 steps: as VeRL 0.9.1 restores its data loader, epoch 2 would train nothing."""
    whole = Path(shared["POSTTRAIN_TEST_DATA"], "embedded", "sft_train.parquet")
    if not whole.exists():
        launch("math_sft")
    rows = tmp_path / "rows.parquet"
    pq.write_table(pq.read_table(whole).slice(0, 16), rows)
    words = ["math_sft", f"data.train_files={rows}", "trainer.total_training_steps=4", "trainer.total_epochs=2",
             "trainer.save_freq=2", "trainer.test_freq=-1"]  # fmt: skip
    undisturbed = launch(*words)
    undisturbed.assert_done([1, 2, 3, 4])
    killed = launch(*words, at=after(3), strike=lambda supervisor, folder: os.kill(folder.read_status().pid, 9))
    assert killed.code == 1
    resumed = go_on(killed)
    resumed.assert_done([1, 2, 3, 4])
    assert resumed.logged_steps == [1, 2, 3, 4]
    for step, metrics in undisturbed.metrics.items():
        for key in ("train/loss", "train/grad_norm", "train/lr", "train/global_tokens"):
            assert resumed.metrics[step][key] == pytest.approx(metrics[key], rel=1e-5), (step, key)


def test_a_killed_supervisor_takes_the_run_with_it(launch):
    left = []

    def kill(supervisor, folder):
        left.append(psutil.Process(folder.read_status().pid))
        supervisor.kill()

    run = launch("math_sft", "trainer.total_training_steps=500", "trainer.save_freq=-1", at=after(1), strike=kill)
    assert run.code == -signal.SIGKILL
    _, alive = psutil.wait_procs(left, timeout=BOUND)
    assert not alive


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
