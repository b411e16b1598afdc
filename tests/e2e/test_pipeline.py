"""The whole pipeline on the tiny model: interrupted while it trains, it goes on, and ends with a table and a report."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_the_pipeline_goes_on_and_ends_with_a_report(tmp_path, shared):
    command = [sys.executable, "-m", "posttrain_verl.pipeline", "recipe=demo", "base_model=tiny", "seed=3",
               f"posttrain.runs_dir={tmp_path}/runs", f"posttrain.data_dir={tmp_path}/data", "evaluate:max_tokens=8",
               "sft:trainer.total_training_steps=4", "sft:trainer.save_freq=2", "sft:trainer.test_freq=2",
               "sft:data.train_batch_size=8", "sft:data.micro_batch_size_per_gpu=8",
               "rl:trainer.total_training_steps=1", "rl:trainer.save_freq=1", "rl:data.train_batch_size=4",
               "rl:actor_rollout_ref.actor.ppo_mini_batch_size=4", "rl:actor_rollout_ref.rollout.n=2",
               "rl:actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
               "rl:actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8"]  # fmt: skip
    home = tmp_path / "runs" / "pipeline" / "demo" / "seed3"
    with subprocess.Popen(command, env={**os.environ, **shared}) as process:
        while not (home / "runs" / "demo_sft" / "0" / "status.json").exists():
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
    assert states(home)["sft"] == "interrupted"

    ended = subprocess.run(
        command, env={**os.environ, **shared}, capture_output=True, text=True, timeout=900, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert set(states(home).values()) == {"done"}
    assert {file.name for file in (home / "eval").glob("*-test.json")} == {
        f"{name}-test.json" for name in ("base", "sft", "rl")
    }
    assert json.loads((home / "chosen-sft.json").read_text())["held_out"].keys() == {"2", "4"}
    assert all(found["passed"] for found in json.loads((home / "export" / "proof.json").read_text()))
    assert "sft against base on" in " ".join(ended.stdout.split())
    assert (home / "report.html").stat().st_size > 10_000


def states(home) -> dict[str, str]:
    return {stage["name"]: stage["state"] for stage in json.loads((home / "pipeline.json").read_text())["stages"]}
