"""Which checkpoint of a run can be gone on from: the newest whole one whose step is among the metrics.

VeRL 0.9.1 writes `latest_checkpointed_iteration.txt` after a checkpoint's files, in RL in place: a kill at the wrong moment
leaves it empty, or naming a folder that a full disk cut short. So the files themselves are looked at.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

_SHARD = re.compile(r"(model|optim|extra_state)_world_size_(\d+)_rank_(\d+)\.pt")
_KINDS = {"model": "model", "optimizer": "optim", "extra": "extra_state"}  # save_contents -> the name of VeRL's file


@dataclass(frozen=True)
class Choice:
    """The checkpoint to go on from, None and step 0 for none; `refused` says why newer ones are not it."""

    path: Path | None
    step: int
    refused: tuple[str, ...] = ()


def choose(checkpoints: Path, stage: str, config: DictConfig, last_step: int | None) -> Choice:
    """The newest checkpoint that is whole and not beyond `last_step`, the last step in metrics.jsonl.

    VeRL's RL trainer saves a step before it logs it: going on from there would leave a gap in the metrics.
    """
    refused = []
    for step, path in sorted(_steps(checkpoints), reverse=True):
        if step > (last_step or 0):
            refused.append(f"{path.name}: the metrics end at step {last_step or 0}")
        elif defect := defect_of(path, stage, config):
            refused.append(f"{path.name}: {defect}")
        else:
            return Choice(path, step, tuple(refused))
    return Choice(None, 0, tuple(refused))


def defect_of(path: Path, stage: str, config: DictConfig) -> str:
    """What a checkpoint folder lacks, empty if VeRL can load it. Only FSDP's layout is known; others pass."""
    if stage == "sft":
        parts = {path: "checkpoint"}
        loader = path / "data_0.pt"
    else:
        parts = {path / "actor": "actor_rollout_ref.actor.checkpoint"}
        if _has_critic(config):
            parts[path / "critic"] = "critic.checkpoint"
        loader = path / "data.pt"
    found = [defect_of_part(part, OmegaConf.select(config, f"{key}.save_contents")) for part, key in parts.items()]
    found.append("" if is_whole(loader) else f"{loader.name} is missing or cut short")
    return next((defect for defect in found if defect), "")


def defect_of_part(part: Path, contents: Any) -> str:
    """What is wrong with the shards of one model: each rank has a file of each kind that is saved."""
    if not part.is_dir():
        return f"{part.name} is missing"
    if (part / "dist_ckpt").is_dir():  # Megatron's layout
        return ""
    found = {match.group(): match for file in part.iterdir() if (match := _SHARD.fullmatch(file.name))}
    sizes = {int(match.group(2)) for match in found.values()}
    if len(sizes) != 1:
        return f"{part.name} has shards of {len(sizes)} world sizes"
    size = sizes.pop()
    wanted = [
        f"{_KINDS[kind]}_world_size_{size}_rank_{rank}.pt"
        for kind in contents or _KINDS
        if kind in _KINDS
        for rank in range(size)
    ]
    bad = [name for name in wanted if not is_whole(part / name)]
    return f"{bad[0]} is missing or cut short" if bad else ""


def has_weights(part: Path) -> bool:
    """Whether the model can be read from there: what a killed run was writing lacks a shard, or the end of one."""
    return (part / "fsdp_config.json").is_file() and not defect_of_part(part, ["model"])


def is_whole(file: Path) -> bool:
    """Whether a file of `torch.save` has its end: a zip archive's directory is the last thing in it, and gives all sizes."""
    try:
        with zipfile.ZipFile(file) as archive:
            return bool(archive.infolist())
    except (OSError, zipfile.BadZipFile):
        return False


def _steps(checkpoints: Path) -> list[tuple[int, Path]]:
    named = [(path.name.removeprefix("global_step_"), path) for path in checkpoints.glob("global_step_*")]
    return [(int(step), path) for step, path in named if step.isdigit()]


def _has_critic(config: DictConfig) -> bool:
    enabled = OmegaConf.select(config, "critic.enable")
    return bool(OmegaConf.select(config, "algorithm.adv_estimator") == "gae" if enabled is None else enabled)
