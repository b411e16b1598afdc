"""Free disk for the checkpoints that the schedule will write."""

from __future__ import annotations

import shutil
from pathlib import Path

from omegaconf import DictConfig

from posttrain_verl.compose import Composed
from posttrain_verl.plan.job import uses_critic
from posttrain_verl.plan.known import shape_of
from posttrain_verl.preflight import machine, model, schedule
from posttrain_verl.problem import Problem

GB = 10**9
FLOOR = 1 * GB  # logs, rollouts, Ray's own files
# Bytes a parameter in an FSDP checkpoint of VeRL: fp32 weights 4, AdamW's two fp32 moments 8, the exported model 4.
BYTES = {"model": 4, "optimizer": 8, "hf_model": 4}


def check(composed: Composed) -> list[Problem]:
    """A problem if the disk of `posttrain.runs_dir` has less room than the run will need."""
    machine.require_here(composed)
    place = _existing(composed.run_dir())
    free, needed = shutil.disk_usage(place).free, needs(composed)
    if free >= needed:
        return []
    what = f"{place} has {free / GB:.1f} GB free, and the run needs about {needed / GB:.1f} GB"
    remedy = f"free some, set posttrain.runs_dir to a larger disk, or keep fewer checkpoints: {_keep(composed)}"
    return [Problem(what, remedy)]


def needs(composed: Composed) -> int:
    """Bytes that the run will write: every checkpoint that stays, and a floor for everything else.

    Parameters are counted from the weights, or from what is known of the model's shape; else only the floor is known.
    """
    return FLOOR + _bytes_of_one(composed) * _checkpoints(composed)


def _bytes_of_one(composed: Composed) -> int:
    """Bytes of one checkpoint: that of the model, and of a critic. The moments of a LoRA run, of its adapter, are small."""
    config = composed.verl
    owners = [config] if composed.stage == "sft" else [config.actor_rollout_ref.actor]
    models = [config.model] if composed.stage == "sft" else [config.actor_rollout_ref.model]
    if composed.stage == "rl" and uses_critic(config):
        owners, models = [*owners, config.critic], [*models, config.critic.model]
    return sum(_parameters(path, composed) * _bytes_a_parameter(owner, trained)
               for path, owner, trained in zip(composed.models, owners, models, strict=False))  # fmt: skip


def _parameters(path: str, composed: Composed) -> int:
    folder = model.folder_of(path)
    counted = model.parameters(folder) if folder is not None else None
    shape = shape_of(path, composed.posttrain.base_model)
    return counted or (shape.parameters if shape else 0)


def _bytes_a_parameter(owner: DictConfig, trained: DictConfig) -> int:
    """The parts that are saved, of every parameter."""
    lora = (trained.get("lora_rank") or 0) > 0
    return sum(BYTES.get(part, 0) for part in owner.checkpoint.save_contents if not (lora and part == "optimizer"))


def _checkpoints(composed: Composed) -> int:
    """Checkpoints on the disk at the end: as many as saved, at most as many as kept. Unknown counts as one."""
    trainer, steps = composed.verl.trainer, schedule.steps(composed)
    frequency = trainer.save_freq
    saved = -(-steps // frequency) if steps and isinstance(frequency, int) and frequency > 0 else 1
    kept = trainer.get(_keep(composed).partition("=")[0].removeprefix("trainer."))
    return min(saved, kept) if isinstance(kept, int) and kept > 0 else saved


def _keep(composed: Composed) -> str:
    return "trainer.max_ckpt_to_keep=1" if composed.stage == "sft" else "trainer.max_actor_ckpt_to_keep=1"


def _existing(path: Path) -> Path:
    """The path, or the nearest of its parents that exists."""
    return next(place for place in (path, *path.parents) if place.exists())
