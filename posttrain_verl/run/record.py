"""What a run has on this machine, written down while it runs, so that what it leaves can be found by ids when it is dead.

The record lies in the run folder (processes.json); a link to the folder lies in the cache while the run lasts. A start first
clears what dead runs left: those whose supervisor is no more.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock

from posttrain_verl import paths
from posttrain_verl.problem import Problem
from posttrain_verl.run import leftovers, processes
from posttrain_verl.run.folder import FAILED, RUNNING, RunFolder, replace
from posttrain_verl.run.processes import Process

FILE = "processes.json"
LOST = "the supervisor of the run is gone"


@dataclass
class Record:
    """`machine` is a host's name, `boot` one of its boots, `folders` are temporary ones, `segments` names in /dev/shm."""

    machine: str
    boot: str
    supervisor: Process
    processes: list[Process] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    segments: list[str] = field(default_factory=list)

    @property
    def is_here(self) -> bool:
        """Whether the run was started on this machine, be it before it booted."""
        return self.machine == os.uname().nodename or self.is_of_this_boot

    @property
    def is_of_this_boot(self) -> bool:
        return self.boot == processes.boot()

    @property
    def is_supervised(self) -> bool:
        return self.is_of_this_boot and self.supervisor.is_alive

    @property
    def alive(self) -> list[Process]:
        return [one for one in self.processes if one.is_alive] if self.is_of_this_boot else []


def read(folder: RunFolder) -> Record | None:
    """The record of a run, None where it has none, or none that can be read."""
    try:
        facts = json.loads((folder.path / FILE).read_text())
        facts["supervisor"] = Process(**facts["supervisor"])
        facts["processes"] = [Process(**one) for one in facts["processes"]]
        return Record(**facts)
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # cut short by a machine that went down
        return None


def write(folder: RunFolder, record: Record) -> None:
    """Write the record, and see that the registry knows the run."""
    replace(folder.path / FILE, json.dumps(asdict(record)) + "\n")
    link = _link(folder)
    if not link.is_symlink():
        with suppress(FileExistsError):
            link.symlink_to(folder.path)


def close(folder: RunFolder) -> None:
    """The run ended and left nothing."""
    (folder.path / FILE).unlink(missing_ok=True)
    _link(folder).unlink(missing_ok=True)


def elsewhere(folder: RunFolder, record: Record) -> Problem:
    """What keeps this machine from a run that another one has: whether it lives cannot be seen from here."""
    remedy = f"wait for it, or stop it there; if that machine is gone for good, delete {folder.path / FILE}"
    return Problem(f"{folder.path} runs on the machine {record.machine}", remedy)


def running(folder: RunFolder, record: Record) -> Problem:
    """What keeps a second launch from a run that one follows already."""
    remedy = "wait for it, or end it: python -m posttrain_verl.stop run=..."
    return Problem(f"{folder.path} is running (pid {record.supervisor.pid})", remedy)


def is_lost(folder: RunFolder) -> bool:
    """Whether the run is said to run, but nobody follows it any more."""
    record = read(folder)
    if record is None or folder.read_status().state != RUNNING:
        return False
    return record.is_here and not record.is_supervised


def clear_dead_runs(report: Callable[[str], None]) -> None:
    """Clear what the dead runs of this user and this cache left on this machine; nothing else is touched."""
    home = _registry()
    with FileLock(home / ".lock"):  # the kernel lets go of it when its holder dies
        for link in home.iterdir():
            if not link.is_symlink():
                continue
            folder = RunFolder(link.resolve())
            try:
                _clear_if_dead(folder, link, report)
            except OSError as error:  # its disk is full, or gone: nothing that another launch need wait for
                report(f"what the run {folder.path} left cannot be cleared: {error}")


def _clear_if_dead(folder: RunFolder, link: Path, report: Callable[[str], None]) -> None:
    record = read(folder)
    if record is None:  # it ended; its supervisor may be about to do the same
        link.unlink(missing_ok=True)
    elif record.is_here and not record.is_supervised:
        report(f"clearing what the dead run {folder.path} left: {clear(folder, record)}")


def clear(folder: RunFolder, record: Record) -> str:
    """End what is left of a run whose supervisor is gone, and say what that was."""
    alive = record.alive
    processes.kill(alive)
    segments = leftovers.unlink_unmapped(record.segments if record.is_of_this_boot else [])
    folders = [Path(one) for one in record.folders if leftovers.is_temporary(Path(one))]
    for one in folders:
        shutil.rmtree(one, ignore_errors=True)
    status = folder.read_status()
    if status.state == RUNNING:
        status.state, status.why, status.ended = FAILED, LOST, time.time()
        folder.write_status(status)
    close(folder)
    return f"{len(alive)} processes, {len(segments)} segments of shared memory, {len(folders)} temporary folders"


def _registry() -> Path:
    return paths.in_cache("running")


def _link(folder: RunFolder) -> Path:
    return _registry() / hashlib.sha256(str(folder.path).encode()).hexdigest()[:16]


def lock_of(folder: RunFolder) -> FileLock:
    """Held by whoever runs the folder: two launches cannot both have it. The kernel lets go of it when its holder dies."""
    return FileLock(_link(folder).with_suffix(".lock"))
