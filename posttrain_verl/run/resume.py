"""Going on with a run: from which checkpoint, with which config, and metrics without a gap or a double line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from posttrain_verl import paths
from posttrain_verl.overrides import OUR_GROUPS
from posttrain_verl.problem import InputError, Problem
from posttrain_verl.run import record
from posttrain_verl.run.checkpoints import Choice, choose
from posttrain_verl.run.folder import DONE, RunFolder, replace
from posttrain_verl.run.metrics import is_whole, parse
from posttrain_verl.verl.context import follow_lengths
from posttrain_verl.watch.watch import settings_of


def prepare(folder: RunFolder, report: Callable[[str], None], words: DictConfig | None = None) -> Choice:
    """Make the folder ready for its next attempt: metrics up to a checkpoint, and a config that starts there.

    `words` are keys of VeRL that the next attempt gets anew. The config of the first attempt stays as config.1.yaml.
    """
    first = folder.path / "config.1.yaml"
    if not first.exists():
        shutil.copyfile(folder.config, first)
    before = cast(DictConfig, OmegaConf.load(first))
    config = cast(DictConfig, OmegaConf.merge(before, words or {}))
    follow_lengths(config, before)
    _fold_attempts(folder)
    choice = choose(checkpoints_of(config), folder.read_plan()["stage"], config, _last_step(folder))
    for refused in choice.refused:
        report(f"not from {refused}")
    report(f"going on from {choice.path}" if choice.path else "no checkpoint to go on from: starting again")
    cut_metrics(folder, choice.step)
    if choice.path:
        config.trainer.resume_mode, config.trainer.resume_from_path = "resume_path", str(choice.path)
        if "val_before_train" in config.trainer:  # done, and logged, by the attempt that came here first
            config.trainer.val_before_train = False
    elif config.trainer.resume_mode == "auto":  # VeRL would take up what was refused
        config.trainer.resume_mode = "disable"
    folder.write_config(config)
    status = folder.read_status()
    status.last_step, status.attempt = choice.step or None, status.attempt + 1
    folder.write_status(status)
    return choice


def checkpoints_of(config: DictConfig) -> Path:
    """Where VeRL saves: the run folder, if the user named no other place."""
    return Path(config.trainer.default_local_dir)


@dataclass(frozen=True)
class Words:
    """What the command line of a resume says: which run, and keys that the next attempt gets anew."""

    run: str
    runs_dir: str
    detach: bool
    given: DictConfig
    own: list[str]  # the words that give those keys, as they came

    def verl(self, folder: RunFolder) -> DictConfig:
        """The keys that are VeRL's.

        Raises:
            InputError: the run's config has no such key.
        """
        ours = {key: value for key, value in self.given.items() if key != "posttrain"}
        words = OmegaConf.create(ours)
        for key in _PLACES:
            found = OmegaConf.select(words, key)
            if found and all(Path(file).exists() for file in ([found] if isinstance(found, str) else found)):
                OmegaConf.update(words, key, paths.absolute(found))
        config = OmegaConf.load(folder.config)
        unknown = [key for key in _leaves(words) if OmegaConf.select(config, key, default=_MISSING) is _MISSING]
        if unknown:
            raise InputError("cannot go on", [Problem(f"{key} is no key of the run's config.yaml") for key in unknown])
        return words

    def change_plan(self, folder: RunFolder) -> None:
        """Put new settings of the watch, and a new number of steps, into plan.json.

        Raises:
            InputError: the watch has no such key.
        """
        plan = folder.read_plan()
        watch = OmegaConf.create(settings_of(plan) or {})
        new = OmegaConf.select(self.given, "posttrain.watch") or OmegaConf.create({})
        unknown = [key for key in _leaves(new) if OmegaConf.select(watch, key, default=_MISSING) is _MISSING]
        if unknown:
            raise InputError(
                "cannot go on", [Problem(f"posttrain.watch.{key} is no key of the watch") for key in unknown]
            )
        plan["watch"] = OmegaConf.to_container(OmegaConf.merge(watch, new))
        steps = OmegaConf.select(self.given, "trainer.total_training_steps")
        plan["total_steps"] = steps or plan.get("total_steps")
        folder.write_plan(plan)


def read_words(words: list[str]) -> Words:
    """Read `run=NAME` and the keys beside it.

    Raises:
        InputError: a word is no key=value, or a key of ours that a resume cannot change.
    """
    named = [word.partition("=")[2] for word in words if word.startswith("run=")]
    others = [word for word in words if not word.startswith("run=")]
    problems = [
        Problem(f"'{word}' is no key=value", "with run= it takes keys only") for word in others if "=" not in word
    ]
    if not (run := named[-1]):
        problems.append(Problem("no run is named", "add run=NAME; python -m posttrain_verl.list shows them"))
    if problems:
        raise InputError("the command line cannot be read", problems)
    given = _read_keys(others)
    ours = given.get("posttrain") or OmegaConf.create({})
    fixed = [str(key) for key in ours if key not in ("runs_dir", "detach", "watch")]
    fixed += [str(key) for key in given if key in (*OUR_GROUPS, "eval")]
    if fixed:
        remedy = "what a run is stays as it was launched; launch a new one"
        raise InputError("cannot go on", [Problem(f"run={run} takes no {key}", remedy) for key in fixed])
    own = [word for word in words if word.partition("=")[0].lstrip("+") not in _OF_THE_VERB]
    return Words(run, str(ours.get("runs_dir") or "runs"), bool(ours.get("detach", False)), given, own)


def _read_keys(words: list[str]) -> DictConfig:
    try:
        return OmegaConf.from_dotlist([word.lstrip("+") for word in words])
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        problem = Problem(" ".join(str(error).split()), "write key=value, each value as yaml")
        raise InputError("the command line cannot be read", [problem]) from None


def require_resumable(folder: RunFolder, words: Words) -> None:
    """Raises InputError: the run is done, or somebody runs it."""
    known = record.read(folder)
    more = OmegaConf.select(words.given, "trainer.total_training_steps")
    problems = []
    if folder.read_status().state == DONE and not more:
        problems.append(Problem(f"{folder.path} is done", "trainer.total_training_steps=N with more steps goes on"))
    elif known and not known.is_here:
        problems.append(record.elsewhere(folder, known))
    elif known and known.is_supervised:
        problems.append(record.running(folder, known))
    if problems:
        raise InputError("cannot go on", problems)


def _leaves(node: DictConfig, prefix: str = "") -> list[str]:
    """The dotted keys of the values in a config."""
    found = []
    for key, value in node.items():
        name = f"{prefix}{key!s}"
        found += _leaves(value, f"{name}.") if isinstance(value, DictConfig) else [name]
    return found


_MISSING = object()
_OF_THE_VERB = ("run", "posttrain.runs_dir", "posttrain.detach")
# Keys that may name files: Ray's workers have a current folder of their own.
_PLACES = ("data.train_files", "data.val_files", "reward.custom_reward_function.path", "model.path",
           "actor_rollout_ref.model.path", "critic.model.path")  # fmt: skip


def _fold_attempts(folder: RunFolder) -> None:
    """Add to metrics.jsonl what an attempt wrote and its supervisor, killed, did not."""
    attempts = sorted(folder.path.glob(".metrics.*.jsonl"), key=lambda path: int(path.name.split(".")[2]))
    known = set(_whole_lines(folder.metrics))
    for attempt in attempts:
        with folder.metrics.open("ab") as file:
            file.writelines(line for line in _whole_lines(attempt) if line not in known)
        attempt.unlink()


def cut_metrics(folder: RunFolder, step: int) -> None:
    """Drop what comes after `step` in metrics.jsonl: it will be trained, and logged, again."""
    kept = [line for line in _whole_lines(folder.metrics) if step and parse(line)[0] <= step]
    if folder.metrics.exists():
        replace(folder.metrics, b"".join(kept).decode())


def _last_step(folder: RunFolder) -> int | None:
    return max((parse(line)[0] for line in _whole_lines(folder.metrics)), default=None)


def _whole_lines(file: Path) -> list[bytes]:
    if not file.exists():
        return []
    return [line for line in file.read_bytes().splitlines(keepends=True) if is_whole(line)]
