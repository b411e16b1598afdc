"""The record of what a run has on this machine, so that what it leaves can be found by ids when it is dead.

The record lies in the run folder (processes.json). A link to the folder lies in the cache while the run lasts. A start first
clears what dead runs left, which are those whose supervisor is gone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock

from posttrain_verl import paths
from posttrain_verl.machine import processes
from posttrain_verl.machine.processes import Process
from posttrain_verl.paths import write_atomically
from posttrain_verl.run.folder import FAILED, RUNNING, RunFolder
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import Problem

RECORD_FILE = "processes.json"
LOST_REASON = "the supervisor of the run is gone"


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
        """Whether the run was started on this machine, even if before it booted."""
        return self.machine == os.uname().nodename or self.is_of_this_boot

    @property
    def is_of_this_boot(self) -> bool:
        return self.boot == processes.boot_id()

    @property
    def is_supervised(self) -> bool:
        return self.is_of_this_boot and self.supervisor.is_alive

    @property
    def alive(self) -> list[Process]:
        return [one for one in self.processes if one.is_alive] if self.is_of_this_boot else []


def read_record(folder: RunFolder) -> Record | None:
    """The record of a run, or None where there is none that can be read."""
    try:
        facts = json.loads((folder.path / RECORD_FILE).read_text())
        facts["supervisor"] = Process(**facts["supervisor"])
        facts["processes"] = [Process(**one) for one in facts["processes"]]
        return Record(**facts)
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # cut short by a machine that went down
        return None


def write_record(folder: RunFolder, record: Record) -> None:
    """Write the record, and add the run to the registry."""
    write_atomically(folder.path / RECORD_FILE, json.dumps(asdict(record)) + "\n")
    link = _registry_link(folder)
    if not link.is_symlink():
        with suppress(FileExistsError):
            link.symlink_to(folder.path)


def close_record(folder: RunFolder) -> None:
    """The run ended and left nothing."""
    (folder.path / RECORD_FILE).unlink(missing_ok=True)
    _registry_link(folder).unlink(missing_ok=True)


def elsewhere_problem(folder: RunFolder, record: Record) -> Problem:
    """The problem of a run that another machine has: whether it lives cannot be seen from here."""
    remedy = f"wait for it, or stop it there; if that machine is gone for good, delete {folder.path / RECORD_FILE}"
    return Problem(f"{folder.path} runs on the machine {record.machine}", remedy)


def running_problem(folder: RunFolder, record: Record) -> Problem:
    """The problem of a second launch of a run that is already supervised."""
    remedy = "wait for it, or end it: python -m posttrain_verl.stop run=..."
    return Problem(f"{folder.path} is running (pid {record.supervisor.pid})", remedy)


def is_lost(folder: RunFolder) -> bool:
    """Whether status.json says that the run runs, but nobody supervises it any more."""
    record = read_record(folder)
    if record is None or folder.read_status().state != RUNNING:
        return False
    return record.is_here and not record.is_supervised


def clear_dead_runs() -> None:
    """Clear what the dead runs of this user and this cache left on this machine. Nothing else is touched."""
    home = paths.in_cache("running")
    with FileLock(home / ".lock"):  # the kernel releases it when its holder dies
        for link in [entry for entry in home.iterdir() if entry.is_symlink()]:
            folder = RunFolder(link.resolve())
            try:
                record = read_record(folder)
                if record is None:  # it ended, and its supervisor may be about to remove the link
                    link.unlink(missing_ok=True)
                elif record.is_here and not record.is_supervised:
                    log.info(f"clearing what the dead run {folder.path} left: {clear_run(folder, record)}")
            except OSError as error:  # its disk is full, or gone: another launch need not wait for that
                log.info(f"what the run {folder.path} left cannot be cleared: {error}")


def clear_run(folder: RunFolder, record: Record) -> str:
    """End what is left of a run whose supervisor is gone, and return what that was, for a message."""
    alive = record.alive
    processes.kill_processes(alive)
    segments = processes.unlink_unmapped(record.segments if record.is_of_this_boot else [])
    folders = [Path(one) for one in record.folders if processes.is_temporary(Path(one))]
    for one in folders:
        shutil.rmtree(one, ignore_errors=True)
    status = folder.read_status()
    if status.state == RUNNING:
        status.state, status.why, status.ended = FAILED, LOST_REASON, folder.last_sign_of_life()
        folder.write_status(status)
    close_record(folder)
    return f"{len(alive)} processes, {len(segments)} segments of shared memory, {len(folders)} temporary folders"


def _registry_link(folder: RunFolder) -> Path:
    return paths.in_cache("running") / hashlib.sha256(str(folder.path).encode()).hexdigest()[:16]


def folder_lock(folder: RunFolder) -> FileLock:
    """The lock that whoever runs the folder holds. The kernel releases it when its holder dies."""
    return FileLock(_registry_link(folder).with_suffix(".lock"))
