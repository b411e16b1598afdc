"""The members of a sweep: what the sweep was asked for, how each member ended, and what each member measured.

The first two lie in `<runs_dir>/multirun/<id>/sweep.json`. A member measures its accuracy on the validation set, or the reward
there where nothing says what is right, or else a loss or reward of training.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import OmegaConf

from posttrain_verl import paths
from posttrain_verl.paths import write_atomically
from posttrain_verl.run.folder import DONE, RUNNING, RunFolder, Status
from posttrain_verl.run.output import MetricsTail
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verl.metrics import HEADLINES, with_held_out
from posttrain_verl.verl.verdicts import Verdicts, read_verdicts

WAITING = "waiting"
SWEEP_FILE = "sweep.json"
ACCURACY, REWARD = "accuracy", "held-out reward"  # what a validation measures


@dataclass
class Member:
    """One member: its overrides, the run folder of its last attempt, its state (a run's, or waiting) and exit code.

    `goes_on` says that the run in `folder` began in an earlier attempt of the sweep and is resumed.
    """

    number: int
    overrides: list[str]
    folder: str
    state: str = WAITING
    code: int | None = None
    attempt: int = 1
    seconds: float = 0.0
    why: str = ""
    goes_on: bool = False


@dataclass
class Record:
    """A sweep. `folder` is its own. Each member runs the module `verb` with its own of the overrides, and `flags`."""

    folder: Path
    verb: str
    words: list[str]
    flags: list[str] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    @property
    def id(self) -> str:
        return self.folder.name

    def save(self) -> None:
        """Write all of sweep.json. Members that run in parallel may do so at the same moment."""
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / SWEEP_FILE, json.dumps(asdict(self), indent=2, default=str) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Record:
        """Read a sweep. A member that was running when the sweep ended waits again, unless its run was done later."""
        said = json.loads((folder / SWEEP_FILE).read_text())
        members = [Member(**member) for member in said.pop("members")]
        for member in members:
            if member.state == RUNNING:
                run = _run_status(member)
                member.state, member.code = (DONE, 0) if run and run.state == DONE else (WAITING, member.code)
        return cls(**{**said, "folder": folder, "members": members})

    def swept(self, member: Member) -> list[str]:
        """The overrides that not every member has, as they would be typed."""
        common = set.intersection(*(set(one.overrides) for one in self.members)) if len(self.members) > 1 else set()
        return [override.lstrip("+") for override in member.overrides if override not in common]

    def member(self, overrides: list[str]) -> Member:
        """The member with these overrides, made if there is none. Unless it is done, it is ready for another attempt."""
        found = next((one for one in self.members if one.overrides == overrides), None)
        if found is None:
            found = Member(len(self.members), overrides, "")
            self.members.append(found)
        elif found.state != DONE:
            found.goes_on = _run_status(found) is not None
            if Path(found.folder).exists() and not found.goes_on:
                found.attempt += 1
        if found.state != DONE:
            recipe = override_value(found.overrides, "recipe") or ""
            recipe = Path(recipe).stem if recipe.endswith(paths.YAML_SUFFIXES) else recipe
            found.state, found.folder = WAITING, str(self.folder.parents[1] / recipe / self.run_id(found))
        return found

    def run_id(self, member: Member) -> str:
        attempt = f"-{member.attempt}" if member.attempt > 1 else ""
        return f"{self.id}-{member.number}{attempt}"


def _run_status(member: Member) -> Status | None:
    """What the member's run folder says; None if its run never began."""
    folder = RunFolder(Path(member.folder))
    return folder.read_status() if folder.has_begun else None


def open_record(verb: str, arguments: list[str], flags: list[str], home: Path | None = None) -> Record:
    """The record of the sweep that the arguments ask for: a new one, or with `posttrain.sweep=<id>` an existing one.

    It lies in `home`, or else beside the runs.

    Raises:
        InputError: there is no such sweep, it has other overrides, or a new one would take the folder of another.
    """
    known = override_value(arguments, "posttrain.sweep")
    own = [each for each in arguments if override_key(each) not in ("posttrain.sweep", "posttrain.run_id")]
    if home is None:
        default = OmegaConf.load(paths.conf_dir() / "launch.yaml").posttrain.runs_dir
        home = Path(override_value(arguments, "posttrain.runs_dir") or default).expanduser().absolute() / "multirun"
    folder = home / (known or override_value(arguments, "posttrain.run_id") or datetime.now().strftime("%Y%m%d-%H%M%S"))
    exists = (folder / SWEEP_FILE).exists()
    if not known:
        if exists:
            problem = Problem(f"{folder} holds a sweep already", f"resume it: -m posttrain.sweep={folder.name}")
            raise InputError("nothing to sweep", [problem])
        return Record(folder, verb, own, flags)
    if not exists:
        there = ", ".join(sorted(file.parent.name for file in home.glob(f"*/{SWEEP_FILE}"))) or "none"
        raise InputError("nothing to resume", [Problem(f"{folder / SWEEP_FILE} is missing", f"there are: {there}")])
    record = Record.load(folder)
    if own != record.words and any(override_key(each) != "posttrain.runs_dir" for each in own):
        what = f"the sweep {folder.name} has other overrides: {' '.join(record.words)}"
        problem = Problem(what, f"give those, or only -m posttrain.sweep={folder.name}")
        raise InputError("nothing to resume", [problem])
    return record


def override_key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def override_value(overrides: Iterable[str], key: str) -> str | None:
    """The value that the last of the overrides gives to the key."""
    return next((each.partition("=")[2] for each in reversed(list(overrides)) if override_key(each) == key), None)


@dataclass(frozen=True)
class Result:
    """`value` of `measure` after `step`, and whether more of it is better.

    Where there was a validation, `items` holds the accuracy on each question, or the reward.
    """

    measure: str
    value: float
    step: int
    items: dict[str, float] = field(default_factory=dict)
    rises: bool = True

    @property
    def is_accuracy(self) -> bool:
        return self.measure == ACCURACY

    @property
    def goodness(self) -> float:
        """The value, turned so that more is better."""
        return self.value if self.rises else -self.value


def read_result(folder: Path) -> Result | None:
    """The result of the run in `folder`, or None if it measured nothing.

    It comes from the rollouts of the last validation, else from the metrics. VeRL writes one JSON line for each answer to
    validation/<step>.jsonl.
    """
    run, last = RunFolder(folder), dict[str, tuple[float, int]]()
    for step, metrics in MetricsTail(run.metrics).read():
        # VeRL writes null for a number that is not finite.
        last |= {key: (value, step) for key, value in with_held_out(metrics).items() if value is not None}
    has_plan = run.plan.exists() and run.config.exists()
    verdicts = (
        read_verdicts(run.read_plan(), run.read_settings().reward, last) if has_plan else read_verdicts({}, None, last)
    )
    steps = [int(file.stem) for file in folder.glob("validation/*.jsonl") if file.stem.isdigit()]
    if steps and (found := _judge_validation(folder / f"validation/{max(steps)}.jsonl", verdicts)):
        return found
    headlines = dict.fromkeys((*([run.stage.headline] if run.plan.exists() else []), *HEADLINES))
    return next((Result(metric.key, *last[metric.key], rises=metric.rises) for metric in headlines if metric.key in last),
                None)  # fmt: skip


def _judge_validation(file: Path, verdicts: Verdicts) -> Result | None:
    """The accuracy of a validation, or the mean reward where an answer is not known to be right or wrong."""
    answers: dict[str, list[dict[str, Any]]] = {}
    for line in file.read_text().splitlines():
        answer = json.loads(line)
        answers.setdefault(str(answer["input"]), []).append(answer)
    rights = {question: [verdicts.is_right(each) for each in group] for question, group in answers.items()}
    is_judged = not any(right is None for group in rights.values() for right in group)
    items = {question: fmean(bool(right) for right in rights[question]) if is_judged
             else fmean(float(each["score"]) for each in group) for question, group in answers.items()}  # fmt: skip
    return Result(ACCURACY if is_judged else REWARD, fmean(items.values()), int(file.stem), items) if items else None
