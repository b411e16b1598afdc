"""A real GRPO run that is ended from outside while VeRL is in the middle of a step, and gone on with."""

import os
import signal
import time

import pytest

from posttrain_verl.run import ray_state

pytestmark = [pytest.mark.e2e, pytest.mark.nightly, pytest.mark.timeout(900)]


def after(step):
    """The time at which metrics.jsonl has the step."""
    return lambda folder: folder.metrics.exists() and f'"step":{step},'.encode() in folder.metrics.read_bytes()


def gone_on_with(run, go_on, steps):
    """It is gone on with from a checkpoint, and no step is missing or double."""
    resumed = go_on(run, f"trainer.total_training_steps={steps}", "posttrain.watch.silence.seconds=600")
    assert any(line.startswith("resuming from ") for line in resumed.lines), resumed.explained()
    resumed.assert_done(list(range(1, steps + 1)))
    assert resumed.logged_steps == list(range(1, steps + 1))


def test_ctrl_c_twice(launch, go_on, bound):
    def twice(supervisor, folder):
        supervisor.send_signal(signal.SIGINT)
        time.sleep(0.3)  # the first is being handled: Ray ends its workers
        supervisor.send_signal(signal.SIGINT)
        struck.append(time.time())

    struck = []
    run = launch("math_grpo", "trainer.total_training_steps=500", "trainer.save_freq=1", at=after(2), strike=twice)
    assert run.code == 130, run.explained()
    assert run.status.state == "interrupted"
    assert run.status.ended - struck[0] <= bound(10), "the second one ends the waiting"
    assert not any(line.startswith("Traceback") for line in run.lines)
    assert not run.segments
    gone_on_with(run, go_on, run.status.last_step + 1)


def test_a_log_that_falls_silent(launch, go_on, bound):
    """The process that holds VeRL's trainer is stopped; only the silence is watched, and says where it stands."""

    def stop(supervisor, folder):
        os.kill(
            next(one.pid for one in ray_state.read_members(folder.cluster_file) if one.name == "TaskRunnerV1"),
            signal.SIGSTOP,
        )
        struck.append(time.time())

    struck = []
    silence = ["posttrain.watch.silence.seconds=12", "posttrain.watch.silence.longest_steps=0"]
    run = launch("math_grpo", "trainer.total_training_steps=500", "trainer.save_freq=1", "posttrain.watch.stopped.do=off",
                 *silence, at=after(2), strike=stop)  # fmt: skip
    assert run.code == 1, run.explained()
    event = run.events[-1]
    assert event["rule"] == run.status.rule == "silence"
    assert 12 <= event["time"] - struck[0] + 1 <= bound(12 + 20), (
        "it is busy until a window of 10 s says that it is not"
    )
    assert event["stage"] in ("generation", "reward", "log-prob", "update", "weight sync", "checkpoint", "training")
    assert (
        "ray::TaskRunnerV1" in event["why"] and "== ray::TaskRunnerV1" in (run.folder.path / "stacks.txt").read_text()
    )
    assert run.status.ended - event["time"] <= bound(30)
    assert not run.segments
    gone_on_with(run, go_on, run.status.last_step + 1)
