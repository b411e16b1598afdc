"""The checkpoints that VeRL writes: their size, which one a run can resume from, and how many of them stay.

VeRL 0.9.1 writes `latest_checkpointed_iteration.txt` after a checkpoint's files, in RL in place. A kill at the wrong
moment leaves that file empty, or naming a folder that a full disk cut short. So the files themselves are examined.

VeRL keeps `trainer.max_ckpt_to_keep` (SFT) or `trainer.max_actor_ckpt_to_keep` and `trainer.max_critic_ckpt_to_keep`
(RL) of the checkpoints that the same process saved. It does not count those before a resume, and of an RL checkpoint it
leaves the folder with the state of the data loader. Here they count. Nothing is deleted before a newer checkpoint is
whole, and nothing outside a run folder: a folder that the user names may hold checkpoints of other runs.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from posttrain_verl.paths import write_atomically
from posttrain_verl.verl.job import BYTES
from posttrain_verl.verl.metrics import Metric
from posttrain_verl.verl.settings import ModelSettings
from posttrain_verl.verl.stage import Stage, stage_named

MOMENTS = 2  # of AdamW, each a number a trained parameter, in the dtype of the weights


@dataclass(frozen=True)
class CheckpointPart:
    """What a checkpoint holds of one model, in bytes. `kept` checkpoints of it stay, None for all of them.

    With `keeps_best` one that a validation found better stays beside them.
    """

    name: str
    weights: int
    optimizer: int
    folder: int
    kept: int | None
    replicas: int = 1
    keeps_best: bool = False

    @property
    def bytes(self) -> int:
        return self.weights + self.optimizer + self.folder

    def count(self, saved: int | None) -> int:
        """Checkpoints on the disk at once at most: those that are kept, and one that is being written.

        VeRL 0.9.1 deletes the oldest before it writes where two or more are kept, so one fewer in a run that was never
        resumed. Of a number that is not known only the first checkpoint counts.
        """
        most = [
            number for number in (saved, self.kept + 1 + self.keeps_best if self.kept else None) if number is not None
        ]
        return min(most, default=1)


def measure_part(model: ModelSettings, gpus: int, parameters: int, adapter: int) -> CheckpointPart:
    """What a checkpoint of a run on `gpus` holds of a model with so many parameters, and so many in its adapter under LoRA.

    Every rank writes its shard of weights and moments; the replicas of HSDP (`fsdp_size`) write them again. Engines other
    than FSDP are counted as if they were FSDP of all devices in fp32.
    """
    contents, item, shards = model.save_contents or [], BYTES.get(str(model.master_dtype), 4), model.fsdp_size
    replicas = gpus // shards if isinstance(shards, int) and 0 < shards < gpus else 1
    whole, learning = parameters, parameters
    if model.lora_rank:
        whole, learning = adapter if model.save_lora_only else parameters + adapter, adapter
    kept = model.kept_checkpoints
    copies = replicas * item
    return CheckpointPart(model.name, kept=kept if isinstance(kept, int) and kept > 0 else None, replicas=replicas,
                          weights=whole * copies * ("model" in contents),
                          optimizer=learning * MOMENTS * copies * ("optimizer" in contents),
                          folder=whole * item * ("hf_model" in contents))  # fmt: skip


FSDP_CONFIG = "fsdp_config.json"  # beside the shards of a model
HUGGING_FACE = "huggingface"  # the folder beside them: config and tokenizer, and with `hf_model` the weights
LORA = "lora_train_meta.json"  # beside the shards of a LoRA run: rank and scale of the adapter
_SHARD = re.compile(r"(model|optim|extra_state)_world_size_(\d+)_rank_(\d+)\.pt")
_KINDS = {"model": "model", "optimizer": "optim", "extra": "extra_state"}  # save_contents -> the name of VeRL's file


@dataclass(frozen=True)
class CheckpointChoice:
    """The checkpoint to resume from, None and step 0 for none; `refused` says why newer ones are not it."""

    path: Path | None
    step: int
    refused: tuple[str, ...] = ()


def choose_checkpoint(checkpoints: Path, stage: Stage, config: DictConfig, last_step: int | None) -> CheckpointChoice:
    """The newest checkpoint that is whole and not beyond `last_step`, the last step in metrics.jsonl.

    VeRL's RL trainer saves a step before it logs it: resuming from there would leave a gap in the metrics.
    """
    refused = []
    for step, path in sorted(steps_in(checkpoints).items(), reverse=True):
        if step > (last_step or 0):
            refused.append(f"{path.name}: the metrics end at step {last_step or 0}")
        elif defect := find_defect(path, stage, config):
            refused.append(f"{path.name}: {defect}")
        else:
            return CheckpointChoice(path, step, tuple(refused))
    return CheckpointChoice(None, 0, tuple(refused))


def find_defect(path: Path, stage: Stage, config: DictConfig) -> str:
    """What a checkpoint folder lacks, empty if VeRL can load it. Only FSDP's layout is known; others pass."""
    loader = path / stage.loader_file
    for part, model in stage.checkpoint_parts(stage.settings(config)).items():
        if defect := find_part_defect(path / part, model.save_contents):
            return defect
    return "" if is_whole_archive(loader) else f"{loader.name} is missing or cut short"


def find_part_defect(part: Path, contents: Any) -> str:
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
    for kind in (kind for kind in contents or _KINDS if kind in _KINDS):
        for name in (f"{_KINDS[kind]}_world_size_{size}_rank_{rank}.pt" for rank in range(size)):
            if not is_whole_archive(part / name):
                return f"{name} is missing or cut short"
    return ""


def has_weights(part: Path) -> bool:
    """Whether the model can be read from there: what a killed run was writing lacks a shard, or the end of one."""
    return (part / FSDP_CONFIG).is_file() and not find_part_defect(part, ["model"])


def list_shards(part: Path) -> list[Path]:
    """The shards of a model, by rank, that its checkpoint must have.

    Raises:
        FileNotFoundError: it is not an FSDP checkpoint.
    """
    size = json.loads((part / FSDP_CONFIG).read_text())["world_size"]
    return [part / f"model_world_size_{size}_rank_{rank}.pt" for rank in range(size)]


def find_shards(part: Path) -> list[Path]:
    """The shards of a model that are there."""
    return list(part.glob("model_world_size_*.pt"))


HELD_OUT = "held_out.json"  # in the folder of a checkpoint: what a validation of its step measured


def write_held_out(checkpoints: Path, step: int, measured: Mapping[str, Any]) -> None:
    """Keep what a validation measured in the folder of the checkpoint of its step, so that both are copied together."""
    folder = step_folder(checkpoints, step)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / HELD_OUT, json.dumps(measured) + "\n")


def best_step(checkpoints: Path, metric: Metric | None, steps: Iterable[int]) -> int | None:
    """The one of the steps with the best value of `metric`, of equal ones the last; None where none was measured."""
    found = dict[int, float]()
    for step in steps if metric else ():
        with suppress(OSError, ValueError, TypeError):
            value = json.loads((step_folder(checkpoints, step) / HELD_OUT).read_text()).get(metric and metric.key)
            if isinstance(value, int | float) and math.isfinite(value):
                found[step] = value if metric and metric.rises else -value
    return max(found, key=lambda step: (found[step], step), default=None)


def fingerprint_shards(part: Path) -> str:
    """A digest of the shards of a model, by the checksums in their archives, so that no weight is read. A copy has the same.

    Raises:
        OSError, zipfile.BadZipFile: a shard is cut off.
    """
    digest = hashlib.sha256()
    for file in sorted(find_shards(part)):
        with zipfile.ZipFile(file) as archive:
            parts = [(part.filename, part.CRC, part.file_size) for part in archive.infolist()]
        digest.update(repr((file.name, parts)).encode())
    return digest.hexdigest()


def is_whole_archive(file: Path) -> bool:
    """Whether a file of `torch.save` has its end: a zip archive's directory is the last thing in it, and gives all sizes."""
    try:
        with zipfile.ZipFile(file) as archive:
            return bool(archive.infolist())
    except (OSError, zipfile.BadZipFile):
        return False


STEP_PREFIX = "global_step_"
# Variables of every process that trains in a run: its metrics, in its folder, and the name of its stage.
METRICS_VARIABLE = "VERL_FILE_LOGGER_PATH"
STAGE_VARIABLE = "POSTTRAIN_STAGE"


class Retention:
    """The checkpoints of one attempt of a run. Where a validation decides which one is its result, the best so far stays, too."""

    def __init__(self, config: DictConfig, stage: Stage):
        settings = stage.settings(config)
        self._home = Path(settings.checkpoint_dir)
        self._keep = {part: model.kept_checkpoints for part, model in stage.checkpoint_parts(settings).items()}
        self._decides = stage.decides_checkpoint
        self._saved: set[int] = set()
        self._resumed = 0  # the step that this attempt began from; 0 for none, and for a checkpoint of another run
        if settings.resume_path and settings.resume_mode != "disable":
            path = Path(settings.resume_path).resolve()
            self._resumed = (_folder_step(path) or 0) if path.parent == self._home.resolve() else 0

    def after_save(self, step: int) -> list[Path]:
        """Delete what is not to stay, now that the checkpoint of `step` is whole; returns what was deleted."""
        self._saved.add(step)
        if not belongs_to_this_run(self._home):
            return []
        old = [path for part, keep in self._keep.items() if keep for path in self._old(part, keep)]
        for path in old:
            shutil.rmtree(path, ignore_errors=True)
        # Then folders that have a data loader's state and not a model any more.
        empty = [folder for other, folder in steps_in(self._home).items()
                 if other != step and not any((folder / part).is_dir() for part in self._keep)]  # fmt: skip
        for folder in empty:
            shutil.rmtree(folder, ignore_errors=True)
        return old + empty

    def _old(self, part: str, keep: int) -> list[Path]:
        """The folders of a model that are not among the newest `keep` of this attempt and of what it was resumed from.

        A checkpoint beyond the one that was resumed, and not of this attempt, is one that a killed attempt left: its steps
        are trained again. It stays until there are `keep` others.
        """
        found = {step: folder / part for step, folder in steps_in(self._home).items() if (folder / part).is_dir()}
        valid = sorted(step for step in found if step in self._saved or step <= self._resumed)
        if len(valid) < keep:
            return []
        best = best_step(self._home, self._decides, valid)
        return [found[step] for step in sorted(set(found) - {*valid[-keep:], best})]


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return checkpoints / f"{STEP_PREFIX}{step}"


def steps_in(checkpoints: Path) -> dict[int, Path]:
    """The checkpoint folders by their step."""
    found = {path: _folder_step(path) for path in checkpoints.glob(f"{STEP_PREFIX}*")}
    return {step: path for path, step in found.items() if step is not None}


def _folder_step(path: Path) -> int | None:
    step = path.name.removeprefix(STEP_PREFIX)
    return int(step) if step.isdecimal() else None


def belongs_to_this_run(checkpoints: Path) -> bool:
    """Whether the folder is in the run folder of this process, and so holds checkpoints of no other run."""
    metrics = os.environ.get(METRICS_VARIABLE)
    return metrics is not None and Path(metrics).resolve().parent == checkpoints.resolve().parent


class PruneAfterSave:
    """VeRL's `trainer.checkpoint_callback_class`: its `ppo_trainer` calls `on_save` when all of a checkpoint is written.

    VeRL gives it the config alone, so the variables of the run say which stage it is. Without them it deletes nothing.
    """

    def __init__(self, config: DictConfig):
        name = os.environ.get(STAGE_VARIABLE)
        self._retention = Retention(config, stage_named(name)) if name else None

    def on_save(self, global_step: int, async_save: bool = False, **more: Any) -> None:
        """Raises nothing: a checkpoint too many does no harm to a run."""
        if self._retention and not async_save:  # Megatron's, whose files may still be written
            _prune_old(self._retention, global_step)


def prune_after_saves(handler: Any, config: DictConfig, stage: Stage) -> None:
    """The same for a trainer without such a hook, as VeRL's of SFT: `handler` is its `CheckpointHandler`."""
    retention, save = Retention(config, stage), handler.save_checkpoint

    def save_checkpoint(step: int) -> None:
        save(step=step)
        _prune_old(retention, step)

    handler.save_checkpoint = save_checkpoint


def _prune_old(retention: Retention, step: int) -> None:
    try:
        gone = retention.after_save(step)
    except OSError as error:
        print(f"old checkpoints stay: {error}", flush=True)
        return
    if gone:
        print(f"deleted old checkpoints: {', '.join(str(path) for path in gone)}", flush=True)
