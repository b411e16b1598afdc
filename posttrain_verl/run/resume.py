"""Resuming a run: from which checkpoint, with which config, and with metrics that have no gap and no double line."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from posttrain_verl import own_reward, paths
from posttrain_verl.overrides import OUR_GROUPS
from posttrain_verl.paths import write_atomically
from posttrain_verl.run import record
from posttrain_verl.run.folder import DONE, RunFolder
from posttrain_verl.run.output import is_whole_line, parse_line
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verl.checkpoints import CheckpointChoice, choose_checkpoint
from posttrain_verl.verl.renamed import with_present_modules
from posttrain_verl.verl.stage import Settings
from posttrain_verl.watch.watcher import watch_settings


@dataclass(frozen=True)
class ResumeRequest:
    """What the command line of a resume says: which run, and which keys the next attempt overrides."""

    run: str
    runs_dir: str
    detach: bool
    given: DictConfig
    own: list[str]  # the overrides of the next attempt, as they were typed

    def verl(self, folder: RunFolder) -> DictConfig:
        """The overrides of VeRL's keys. Raises InputError where the run's config has no such key."""
        overrides = OmegaConf.create({key: value for key, value in self.given.items() if key != "posttrain"})
        for key in (*folder.stage.file_keys(), *folder.stage.model_keys()):
            found = OmegaConf.select(overrides, key)
            if found and all(Path(file).exists() for file in ([found] if isinstance(found, str) else found)):
                OmegaConf.update(overrides, key, paths.absolute_paths(found))
        if unknown := _unknown_keys(overrides, cast(DictConfig, OmegaConf.load(folder.config))):
            problems = [Problem(f"{key} is not a key of the run's config.yaml") for key in unknown]
            raise InputError("cannot resume", problems)
        return overrides

    def change_plan(self, folder: RunFolder) -> None:
        """Put overrides of the watch, and a new number of steps, into plan.json. Raises InputError for an unknown key."""
        plan = folder.read_plan()
        watch = OmegaConf.create(watch_settings(plan) or {})
        new = OmegaConf.select(self.given, "posttrain.watch") or OmegaConf.create({})
        if unknown := _unknown_keys(new, watch):
            problems = [Problem(f"posttrain.watch.{key} is not a key of the watch") for key in unknown]
            raise InputError("cannot resume", problems)
        plan["watch"] = OmegaConf.to_container(OmegaConf.merge(watch, new))
        plan["total_steps"] = Settings(self.given).total_steps or plan.get("total_steps")
        folder.write_plan(plan)


def _unknown_keys(given: DictConfig, known: DictConfig) -> list[str]:
    """The dotted keys of the values in `given` that `known` does not have."""
    missing = object()

    def leaf_keys(node: DictConfig, prefix: str = "") -> list[str]:
        found = []
        for key, value in node.items():
            name = f"{prefix}{key!s}"
            found += leaf_keys(value, f"{name}.") if isinstance(value, DictConfig) else [name]
        return found

    return [key for key in leaf_keys(given) if OmegaConf.select(known, key, default=missing) is missing]


def read_request(arguments: list[str]) -> ResumeRequest:
    """Read `run=NAME` and the overrides beside it.

    Raises:
        InputError: an argument is not key=value, or is a key of ours that a resume cannot change.
    """
    run = [each for each in arguments if each.startswith("run=")][-1].removeprefix("run=")
    others = [each for each in arguments if not each.startswith("run=")]
    problems = [
        Problem(f"'{each}' is not key=value", "with run= only keys are taken") for each in others if "=" not in each
    ]
    if not run:
        problems.append(Problem("no run is named", "add run=NAME; python -m posttrain_verl.list shows them"))
    try:
        given = OmegaConf.from_dotlist([each.lstrip("+") for each in others if "=" in each])
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        problems.append(Problem(" ".join(str(error).split()), "write key=value, each value as yaml"))
    if problems:
        raise InputError("the command line cannot be read", problems)
    ours = given.get("posttrain") or OmegaConf.create({})
    fixed = [str(key) for key in ours if key not in ("runs_dir", "detach", "watch")]
    fixed += [str(key) for key in given if key in (*OUR_GROUPS, "eval")]
    fixed += [each.partition("=")[0] for each in others if own_reward.names_reward(each)]
    if fixed:
        remedy = "what a run is stays as it was launched; launch a new one"
        raise InputError("cannot resume", [Problem(f"run={run} takes no {key}", remedy) for key in fixed])
    of_this_launch = ("posttrain.runs_dir", "posttrain.detach")
    own = [each for each in others if each.partition("=")[0].lstrip("+") not in of_this_launch]
    return ResumeRequest(run, str(ours.get("runs_dir") or "runs"), bool(ours.get("detach", False)), given, own)


def require_resumable(folder: RunFolder, asked: ResumeRequest) -> None:
    """Raises InputError: the run is done, or it is running."""
    known, settings = record.read_record(folder), Settings(asked.given)
    problems = []
    if folder.read_status().state == DONE and not settings.total_steps:
        remedy = f"{settings.key('total_steps')}=N with more steps resumes it"
        problems.append(Problem(f"{folder.path} is done", remedy))
    elif known and not known.is_here:
        problems.append(record.elsewhere_problem(folder, known))
    elif known and known.is_supervised:
        problems.append(record.running_problem(folder, known))
    if problems:
        raise InputError("cannot resume", problems)


def prepare_attempt(folder: RunFolder, overrides: DictConfig | None = None) -> CheckpointChoice:
    """Make the folder ready for its next attempt: metrics up to a checkpoint, and a config that starts there.

    `overrides` are VeRL's keys that change for the next attempt. The config of the first attempt stays as config.1.yaml.
    """
    first = folder.path / "config.1.yaml"
    if not first.exists():
        shutil.copyfile(folder.config, first)
    before = cast(DictConfig, OmegaConf.create(with_present_modules(first.read_text())))
    config = cast(DictConfig, OmegaConf.merge(before, overrides or {}))
    stage, settings = folder.stage, folder.stage.settings(config)
    stage.follow_changes(config, before)
    if changed := own_reward.hold_reward(settings, before, folder.path):
        log.info(changed)
    _fold_attempts(folder)
    last_step = max((parse_line(line)[0] for line in _whole_lines(folder.metrics)), default=None)
    choice = choose_checkpoint(Path(settings.checkpoint_dir), stage, config, last_step)
    if choice.path:
        _require_same_ranks(choice.path, stage.settings(before), settings)
    for refused in choice.refused:
        log.info(f"not from {refused}")
    log.info(f"resuming from {choice.path}" if choice.path else "no checkpoint to resume from: starting again")
    if folder.metrics.exists():  # what comes after the checkpoint will be trained, and logged, again
        kept = [line for line in _whole_lines(folder.metrics) if choice.step and parse_line(line)[0] <= choice.step]
        write_atomically(folder.metrics, b"".join(kept).decode())
    if choice.path:
        settings.put("resume_mode", "resume_path")
        settings.put("resume_path", str(choice.path))
        if settings.validate_first is not None:  # an earlier attempt did it, and logged it
            settings.put("validate_first", False)
    elif settings.resume_mode == "auto":  # VeRL would take a checkpoint that was refused
        settings.put("resume_mode", "disable")
    folder.write_config(config)
    status = folder.read_status()
    status.last_step, status.attempt = choice.step or None, status.attempt + 1
    folder.write_status(status)
    return choice


def _require_same_ranks(checkpoint: Path, before: Settings, now: Settings) -> None:
    """Raises InputError where the number of GPUs changes: each of VeRL's ranks reads the shard that it wrote."""
    machines = [(each.nodes_count, each.gpus_per_node) for each in (before, now)]
    if machines[0] != machines[1] and before.world_size != now.world_size:
        what = f"{checkpoint} has the shards of {before.world_size} ranks, and the run would have {now.world_size}"
        again = " ".join(before.override(name) for name in ("nodes_count", "gpus_per_node"))
        remedy = f"{again} as before, or export the run and launch a new one from the export"
        raise InputError("cannot resume", [Problem(what, remedy)])


def _fold_attempts(folder: RunFolder) -> None:
    """Add to metrics.jsonl what an attempt wrote and its supervisor, which was killed, did not add."""
    attempts = sorted(folder.path.glob(".metrics.*.jsonl"), key=lambda path: int(path.name.split(".")[2]))
    known = set(_whole_lines(folder.metrics))
    for attempt in attempts:
        with folder.metrics.open("ab") as file:
            file.writelines(line for line in _whole_lines(attempt) if line not in known)
        attempt.unlink()


def _whole_lines(file: Path) -> list[bytes]:
    if not file.exists():
        return []
    return [line for line in file.read_bytes().splitlines(keepends=True) if is_whole_line(line)]
