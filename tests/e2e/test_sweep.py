"""A sweep of two real runs: their losses in one table, and nothing to do when it is started again."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_a_sweep_of_two_runs(shared, tmp_path):
    words = ["recipe=math_sft", "base_model=tiny", "mix=embedded", f"posttrain.runs_dir={tmp_path}/runs", "posttrain.run_id=s",
             f"posttrain.data_dir={shared['POSTTRAIN_TEST_DATA']}", "trainer.total_training_steps=2", "trainer.save_freq=2",
             "trainer.test_freq=2", "data.train_batch_size=8", "data.max_length=96", "optim.lr=1e-5,1e-2"]  # fmt: skip
    first = sweep(words, shared)
    assert first.returncode == 0, first.stdout + first.stderr
    said = json.loads((tmp_path / "runs/multirun/s/sweep.json").read_text())
    assert [member["state"] for member in said["members"]] == ["done", "done"]
    assert "val/loss" in first.stdout and "optim.lr=1e-05" in first.stdout

    again = sweep(["posttrain.sweep=s", f"posttrain.runs_dir={tmp_path}/runs"], shared)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is done already") == 2


def sweep(words: list[str], shared: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "posttrain_verl.launch", "-m", *words]
    return subprocess.run(command, env=os.environ | shared, capture_output=True, text=True, check=False, timeout=600)
