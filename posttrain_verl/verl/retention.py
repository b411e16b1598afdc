"""How many checkpoints of a run stay: those that an earlier attempt left count, too.

VeRL 0.9.1 keeps `trainer.max_ckpt_to_keep` (SFT), `trainer.max_actor_ckpt_to_keep` and `trainer.max_critic_ckpt_to_keep` (RL) of
the checkpoints that the same process saved. It knows nothing of those before a resume, which would stay for ever, and of a
checkpoint of RL it leaves the folder with the data loader's state.

Nothing is deleted before a newer checkpoint is whole, and nothing outside a run folder: a folder of the user's own may hold
checkpoints of other runs.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

# Folder of each model below `global_step_N` -> the key that says how many stay. VeRL's SFT has no folder for its one model.
SFT_PARTS = {"": "trainer.max_ckpt_to_keep"}
RL_PARTS = {"actor": "trainer.max_actor_ckpt_to_keep", "critic": "trainer.max_critic_ckpt_to_keep"}
PREFIX = "global_step_"
METRICS = "VERL_FILE_LOGGER_PATH"  # of every process of a run: its metrics, in its folder


class Retention:
    """The checkpoints of one attempt of a run."""

    def __init__(self, config: DictConfig, parts: dict[str, str]):
        self._home = Path(config.trainer.default_local_dir)
        self._keep = {part: OmegaConf.select(config, key) for part, key in parts.items()}
        self._resumed = self._step_resumed(config)
        self._saved: set[int] = set()

    def after_save(self, step: int) -> list[Path]:
        """Delete what is not to stay, now that the checkpoint of `step` is whole; returns what was deleted."""
        self._saved.add(step)
        if not is_of_this_run(self._home):
            return []
        old = [path for part, keep in self._keep.items() if keep for path in self._old(part, keep)]
        for path in old:
            shutil.rmtree(path, ignore_errors=True)
        return old + self._empty_ones(step)

    def _old(self, part: str, keep: int) -> list[Path]:
        """The folders of a model that are not among the newest `keep` of this attempt and of what it was resumed from.

        A checkpoint beyond the one that was resumed, and not of this attempt, is one that a killed attempt left: its steps
        are trained again. It stays until there are `keep` others.
        """
        found = {step: folder / part for step, folder in steps_in(self._home).items() if (folder / part).is_dir()}
        valid = sorted(step for step in found if step in self._saved or step <= self._resumed)
        if len(valid) < keep:
            return []
        return [found[step] for step in sorted(set(found) - set(valid[-keep:]))]

    def _empty_ones(self, step: int) -> list[Path]:
        """Folders that have a data loader's state and no model any more."""
        empty = [folder for other, folder in steps_in(self._home).items()
                 if other != step and not any((folder / part).is_dir() for part in self._keep)]  # fmt: skip
        for folder in empty:
            shutil.rmtree(folder, ignore_errors=True)
        return empty

    def _step_resumed(self, config: DictConfig) -> int:
        """The step that this attempt began from; 0 for none, and for a checkpoint of another run."""
        given = config.trainer.get("resume_from_path")
        if not given or config.trainer.get("resume_mode") == "disable":
            return 0
        path = Path(given).resolve()
        return (_step_of(path) or 0) if path.parent == self._home.resolve() else 0


def steps_in(checkpoints: Path) -> dict[int, Path]:
    """The checkpoint folders by their step."""
    found = {path: _step_of(path) for path in checkpoints.glob(f"{PREFIX}*")}
    return {step: path for path, step in found.items() if step is not None}


def _step_of(path: Path) -> int | None:
    step = path.name.removeprefix(PREFIX)
    return int(step) if step.isdecimal() else None


def is_of_this_run(checkpoints: Path) -> bool:
    """Whether the folder is in the run folder of this process, and so holds checkpoints of no other run."""
    metrics = os.environ.get(METRICS)
    return metrics is not None and Path(metrics).resolve().parent == checkpoints.resolve().parent


class PruneAfterSave:
    """VeRL's `trainer.checkpoint_callback_class` of RL: `on_save` is called when all of a checkpoint is written."""

    def __init__(self, config: DictConfig):
        self._retention = Retention(config, RL_PARTS)

    def on_save(self, global_step: int, async_save: bool = False, **more: Any) -> None:
        """Raises nothing: a checkpoint too many does no harm to a run."""
        if not async_save:  # Megatron's, whose files may still be written
            _prune(self._retention, global_step)


def prune_after_saves(handler: Any, config: DictConfig) -> None:
    """The same for VeRL's SFT trainer, which has no such hook: `handler` is its `CheckpointHandler`."""
    retention, save = Retention(config, SFT_PARTS), handler.save_checkpoint

    def save_checkpoint(step: int) -> None:
        save(step=step)
        _prune(retention, step)

    handler.save_checkpoint = save_checkpoint


def _prune(retention: Retention, step: int) -> None:
    try:
        gone = retention.after_save(step)
    except OSError as error:
        print(f"old checkpoints stay: {error}", flush=True)
        return
    if gone:
        print(f"deleted old checkpoints: {', '.join(str(path) for path in gone)}", flush=True)
