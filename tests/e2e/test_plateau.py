"""SFT that its held-out loss ends: a real run, stopped by the rule, and GRPO from the checkpoint that answers best."""

import json
import os
import subprocess
import sys

import pytest

from posttrain_verl.pipeline.training import Plateau
from posttrain_verl.run.folder import RunFolder

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]
STEPS = 2000  # far more than there is time for
EVERY = 10


def test_a_flat_held_out_loss_ends_sft_and_grpo_goes_on_from_its_best_checkpoint(tmp_path, shared):
    """A learning rate of 1e-7 leaves the loss of the tiny model where it is."""
    command = [sys.executable, "-m", "posttrain_verl.pipeline", "recipe=demo", "base_model=tiny", "run_id=flat",
               f"posttrain.runs_dir={tmp_path}/runs", f"posttrain.data_dir={tmp_path}/data", "evaluate:max_tokens=8",
               "plateau.patience=1", "export=false", "report=false", "evaluate:rows=32",
               f"sft:trainer.total_training_steps={STEPS}", f"sft:trainer.save_freq={EVERY}", "sft:optim.lr=1e-7",
               "sft:data.train_batch_size=8", "sft:data.micro_batch_size_per_gpu=8",
               "rl:trainer.total_training_steps=1", "rl:trainer.save_freq=1", "rl:data.train_batch_size=4",
               "rl:actor_rollout_ref.actor.ppo_mini_batch_size=4", "rl:actor_rollout_ref.rollout.n=2",
               "rl:actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
               "rl:actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8"]  # fmt: skip
    ended = subprocess.run(
        command, env={**os.environ, **shared}, capture_output=True, text=True, timeout=900, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    home = tmp_path / "runs" / "pipeline" / "demo" / "flat"
    sft, rl = (RunFolder(home / "runs" / recipe / "0") for recipe in ("demo_sft", "demo_grpo"))

    plateau = json.loads((home / "plateau-sft.json").read_text())
    assert Plateau(patience=1).is_reached(plateau["values"]) and not Plateau(patience=1).is_reached(
        plateau["values"][:-1]
    )
    assert plateau["values"] == held_out_losses(sft)[: len(plateau["values"])]
    assert sft.read_status().state == "interrupted"
    assert last_step(sft) < STEPS / 2, "it was the rule that ended it"

    chosen = json.loads((home / "chosen-sft.json").read_text())
    assert len(chosen["held_out"]) == 2
    assert chosen["held_out"][str(chosen["step"])] == max(chosen["held_out"].values())
    assert rl.read_status().state == "done" and last_step(rl) == 1
    assert f"path: {chosen['folder']}" in rl.config.read_text()
    assert chosen["folder"].startswith(str(sft.checkpoints / f"global_step_{chosen['step']}"))


def lines(run: RunFolder) -> list[dict]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def held_out_losses(run: RunFolder) -> list[float]:
    return [line["data"]["val/loss"] for line in lines(run) if "val/loss" in line["data"]]


def last_step(run: RunFolder) -> int:
    return lines(run)[-1]["step"]
