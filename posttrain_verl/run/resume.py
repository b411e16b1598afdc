"""Resuming a run: from which checkpoint, with which config, and with metrics that have no gap and no double line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from posttrain_verl import own_reward, paths
from posttrain_verl.compose import to_plain_dict
from posttrain_verl.overrides import OUR_GROUPS
from posttrain_verl.paths import write_atomically
from posttrain_verl.run import record
from posttrain_verl.run.folder import DONE, RunFolder
from posttrain_verl.run.output import is_whole_line, parse_line
from posttrain_verl.run.same_data import find_other_data
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem, did_you_mean
from posttrain_verl.verl.checkpoints import CheckpointChoice, choose_checkpoint
from posttrain_verl.verl.other_names import all_paths, nearest_key
from posttrain_verl.verl.renamed import with_present_modules
from posttrain_verl.verl.settings import format_value
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
        config = cast(DictConfig, OmegaConf.load(folder.config))
        if unknown := _unknown_keys(overrides, config):
            known, settings = list(all_paths(to_plain_dict(config))), folder.stage.settings(config)
            near = {key: nearest_key(key, settings, known) for key in unknown}
            problems = [
                Problem(
                    f"{key} is not a key of the run's config.yaml",
                    f"did you mean {meant}?" if meant else "leave it out",
                )
                for key, meant in near.items()
            ]
            raise InputError("cannot resume", problems)
        return overrides

    def watch(self, folder: RunFolder) -> dict[str, Any]:
        """The settings of the watch for the next attempt. Raises InputError for an unknown key."""
        watch = OmegaConf.create(watch_settings(folder.read_plan()) or {})
        new = OmegaConf.select(self.given, "posttrain.watch") or OmegaConf.create({})
        if unknown := _unknown_keys(new, watch):
            known = list(all_paths(to_plain_dict(watch)))
            problems = [
                Problem(
                    f"posttrain.watch.{key} is not a key of the watch",
                    did_you_mean(key, known, "posttrain.watch.") + "docs/watch.md lists them",
                )
                for key in unknown
            ]
            raise InputError("cannot resume", problems)
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.merge(watch, new)))


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
    """Raises InputError with all that is wrong: the run is done, or it is running, or a key is not one of its config."""
    known, settings = record.read_record(folder), Settings(asked.given)
    problems = []
    for read in (asked.watch, asked.verl):
        try:
            read(folder)
        except InputError as error:
            problems += error.problems
    if folder.read_status().state == DONE and not settings.total_steps:
        step = folder.read_status().last_step
        remedy = f"{settings.key('total_steps')}=N with more than {step} steps resumes it"
        problems.append(Problem(f"{folder.path} is done: step {step} is reached, and the run ends there", remedy))
    elif known and not known.is_here:
        problems.append(record.elsewhere_problem(folder, known))
    elif known and known.is_supervised:
        problems.append(record.running_problem(folder, known))
    if problems:
        raise InputError("cannot resume", problems)


@dataclass(frozen=True)
class Attempt:
    """The next attempt of a run: what VeRL gets but for the checkpoint, the checkpoint, and the config of the first attempt."""

    config: DictConfig
    choice: CheckpointChoice
    first: DictConfig


def plan_attempt(folder: RunFolder, overrides: DictConfig | None = None) -> Attempt:
    """The next attempt of a run, which continues with the settings of the last one and those that `overrides` change.

    Nothing is written but what an attempt logged and its supervisor, which was killed, did not add to metrics.jsonl.

    Raises:
        InputError: an override changes what the checkpoint holds.
    """
    file = folder.path / "config.1.yaml"
    first, before = (cast(DictConfig, OmegaConf.create(with_present_modules(each.read_text())))
                     for each in (file if file.exists() else folder.config, folder.config))  # fmt: skip
    _restore_start(folder.stage.settings(before), folder.stage.settings(first))
    _follow_folder(before, folder)
    config = cast(DictConfig, OmegaConf.merge(before, overrides or {}))
    folder.stage.follow_changes(config, before)
    if changed := own_reward.hold_reward(folder.stage.settings(config), before, folder.path):
        log.info(changed)
    _fold_attempts(folder)
    last_step = max((parse_line(line)[0] for line in _whole_lines(folder.metrics)), default=None)
    settings = folder.stage.settings(config)
    choice = choose_checkpoint(Path(settings.checkpoint_dir), folder.stage, config, last_step)
    total = settings.total_steps
    if isinstance(total, int) and total < choice.step:
        problem = Problem(f"{settings.override('total_steps')}: step {choice.step} is reached already",
                          f"{settings.key('total_steps')}=N with more than {choice.step} steps resumes the run")  # fmt: skip
        raise InputError("cannot resume", [problem])
    was = folder.stage.settings(before)
    if other := list(find_other_data(folder, was, settings)):
        raise InputError("cannot resume", other)
    there = choose_checkpoint(Path(was.checkpoint_dir), folder.stage, before, last_step).path  # without the overrides
    if there:
        _require_same_ranks(there, was, settings)
        if fixed := list(find_fixed(was, settings)):
            raise InputError("cannot resume", fixed)
    if there and not choice.path:
        what = f"with these overrides {there} cannot be resumed, and the run would start again"
        raise InputError("cannot resume", [Problem("; ".join([what, *choice.refused]), f"leave them out, or {_ANEW}")])
    return Attempt(config, choice, first)


def _follow_folder(config: DictConfig, folder: RunFolder) -> None:
    """Set the places of the run anew where its folder was moved or copied: the config holds them as absolute paths."""
    old = Path(folder.stage.settings(config).checkpoint_dir).parent
    if old == folder.path or not folder.checkpoints.is_dir():
        return
    for key, place in folder.stage.run_paths(old).items():
        if OmegaConf.select(config, key) == place:
            OmegaConf.update(config, key, folder.stage.run_paths(folder.path)[key])


def _restore_start(settings: Settings, first: Settings) -> None:
    """Set again how the first attempt started: each later one starts from its own checkpoint, and does not validate first."""
    for name in ("resume_mode", "resume_path", "validate_first"):
        if getattr(settings, name) != getattr(first, name):
            settings.put(name, getattr(first, name))


def write_attempt(folder: RunFolder, attempt: Attempt) -> CheckpointChoice:
    """Make the folder ready for its next attempt: metrics up to the checkpoint, and a config that starts there.

    The config of the first attempt stays as config.1.yaml.
    """
    config, choice, settings = attempt.config, attempt.choice, folder.stage.settings(attempt.config)
    write_atomically(folder.path / "config.1.yaml", OmegaConf.to_yaml(attempt.first))
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
    folder.next_attempt(choice.step or None)
    return choice


def prepare_attempt(folder: RunFolder) -> CheckpointChoice:
    """Make the folder ready for another attempt with the settings of the last one."""
    return write_attempt(folder, plan_attempt(folder))


def _require_same_ranks(checkpoint: Path, before: Settings, now: Settings) -> None:
    """Raises InputError where the number of GPUs changes: each of VeRL's ranks reads the shard that it wrote."""
    machines = [(each.nodes_count, each.gpus_per_node) for each in (before, now)]
    if machines[0] != machines[1] and before.world_size != now.world_size:
        what = f"{checkpoint} has the shards of {before.world_size} ranks, and the run would have {now.world_size}"
        again = " ".join(before.override(name) for name in ("nodes_count", "gpus_per_node"))
        raise InputError("cannot resume", [Problem(what, f"{again} as before, or {_ANEW}")])


_ANEW = "export the run and launch a new one from the export"


def find_fixed(before: Settings, now: Settings) -> Iterator[Problem]:
    """What the checkpoint holds and an override would change: VeRL cannot load it then, or ignores the override."""
    if [model.name for model in before.models] != [model.name for model in now.models]:
        names = [" and ".join(model.name for model in each.models) for each in (before, now)]
        yield Problem(f"the checkpoint holds {names[0]}, and the run would train {names[1]}", _ANEW)
        return
    for old, new in zip(before.models, now.models, strict=True):
        loaded = new.IN_OPTIMIZER if "extra" in (new.save_contents or []) else ()
        for name in (*new.IN_SHARDS, *loaded):
            values = [getattr(each, name) for each in (old, new)]
            if name == "fsdp_size":  # every other number means all ranks
                values = [size if isinstance(size, int) and 0 < size < now.world_size else None for size in values]
            if values[0] != values[1]:
                why = "VeRL takes it from the checkpoint" if name in loaded else "the checkpoint has another form"
                what = f"{new.override(name)}: {why}, which was written with {format_value(getattr(old, name))}"
                yield Problem(what, f"leave it out, or {_ANEW}")


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
