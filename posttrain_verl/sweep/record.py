"""`<runs_dir>/multirun/<id>/sweep.json`: what a sweep was asked for, and what became of each member."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf

from posttrain_verl import paths
from posttrain_verl.problem import InputError, Problem
from posttrain_verl.run.folder import DONE, RUNNING, RunFolder, Status, replace

WAITING = "waiting"
FILE = "sweep.json"


@dataclass
class Member:
    """One member: its words, the run folder of its last attempt, its state (a run's, or waiting) and exit code.

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
    """A sweep. `folder` is its own; `verb` the module each member runs with its words and `flags`."""

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
        """Write sweep.json, whole; members that run at once may do so at the same moment."""
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace(self.folder / FILE, json.dumps(asdict(self), indent=2, default=str) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Record:
        """Read a sweep; a member that was running when the sweep ended waits again, unless its run came to its end alone."""
        said = json.loads((folder / FILE).read_text())
        members = [Member(**member) for member in said.pop("members")]
        for member in members:
            if member.state == RUNNING:
                run = _run_of(member)
                member.state, member.code = (DONE, 0) if run and run.state == DONE else (WAITING, member.code)
        return cls(**{**said, "folder": folder, "members": members})

    def swept(self, member: Member) -> list[str]:
        """Those of the member's words that another member has not, as they would be typed."""
        common = set.intersection(*(set(one.overrides) for one in self.members)) if len(self.members) > 1 else set()
        return [word.lstrip("+") for word in member.overrides if word not in common]

    def member(self, overrides: list[str]) -> Member:
        """The member with these words, made if there is none; unless it is done, it is ready for another attempt."""
        found = next((one for one in self.members if one.overrides == overrides), None)
        if found is None:
            found = Member(len(self.members), overrides, "")
            self.members.append(found)
        elif found.state != DONE:
            found.goes_on = _run_of(found) is not None
            if Path(found.folder).exists() and not found.goes_on:
                found.attempt += 1
        if found.state != DONE:
            found.state, found.folder = WAITING, str(self._folder_of(found))
        return found

    def run_id(self, member: Member) -> str:
        attempt = f"-{member.attempt}" if member.attempt > 1 else ""
        return f"{self.id}-{member.number}{attempt}"

    def _folder_of(self, member: Member) -> Path:
        recipe = value_of(member.overrides, "recipe") or ""
        return self.folder.parents[1] / recipe / self.run_id(member)


def _run_of(member: Member) -> Status | None:
    """What the member's run folder says; None if its run never began."""
    folder = RunFolder(Path(member.folder))
    return folder.read_status() if folder.status.exists() else None


def open_record(verb: str, words: list[str], flags: list[str]) -> Record:
    """The record of the sweep that the words ask for: a new one, or with `posttrain.sweep=<id>` the one that is there.

    Raises:
        InputError: there is no such sweep, it has other words, or a new one would take the folder of another.
    """
    known = value_of(words, "posttrain.sweep")
    own = [word for word in words if key_of(word) not in ("posttrain.sweep", "posttrain.run_id")]
    default = OmegaConf.load(paths.conf_dir() / "launch.yaml").posttrain.runs_dir
    home = Path(value_of(words, "posttrain.runs_dir") or default).expanduser().absolute() / "multirun"
    if known:
        return _resumed(home / known, own)
    folder = home / (value_of(words, "posttrain.run_id") or datetime.now().strftime("%Y%m%d-%H%M%S"))
    if (folder / FILE).exists():
        problem = Problem(f"{folder} holds a sweep already", f"go on with it: -m posttrain.sweep={folder.name}")
        raise InputError("nothing to sweep", [problem])
    return Record(folder, verb, own, flags)


def _resumed(folder: Path, words: list[str]) -> Record:
    if not (folder / FILE).exists():
        there = ", ".join(sorted(file.parent.name for file in folder.parent.glob(f"*/{FILE}"))) or "none"
        raise InputError("nothing to go on with", [Problem(f"{folder / FILE} is missing", f"there are: {there}")])
    record = Record.load(folder)
    others = [word for word in words if key_of(word) != "posttrain.runs_dir"]
    if others and words != record.words:
        what = f"the sweep {folder.name} has other words: {' '.join(record.words)}"
        raise InputError(
            "nothing to go on with", [Problem(what, f"give those, or only -m posttrain.sweep={folder.name}")]
        )
    return record


def key_of(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def value_of(words: Iterable[str], key: str) -> str | None:
    """The value that the last of the words gives to the key."""
    return next((word.partition("=")[2] for word in reversed(list(words)) if key_of(word) == key), None)
