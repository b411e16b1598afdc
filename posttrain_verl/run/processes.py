"""The processes of a run on this machine, by their ids and not by their names.

A process is its pid and the time it started: a pid alone is used again. It belongs to a run if its environment names the
run's metrics file, if it is in the driver's session, if its parent or the leader of its process group belongs to the run,
or if it is the fork that the warm Python made for one that does.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

PROC = Path("/proc")
# A process gets its environment with its last exec: Ray starts a worker under the raylet's, and on a busy machine imports for
# many seconds before it puts the run's in its place. What is older than this is what it will be.
_SETTLED_SECONDS = 120.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """`started` is in clock ticks since the machine's boot."""

    pid: int
    started: int

    @property
    def id(self) -> str:
        """What no other process of this boot has: the warm Python's files are named by it."""
        return f"{self.pid}.{self.started}"

    @property
    def is_alive(self) -> bool:
        """Whether it runs; one that ended and was not waited for does not."""
        found = stat_of(self.pid)
        return found is not None and found.started == self.started and found.state != "Z"

    @property
    def is_stopped(self) -> bool:
        found = stat_of(self.pid)
        return found is not None and found.started == self.started and found.state == "T"

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs, and once its parent has waited for it."""
        found = stat_of(self.pid)
        if found is None or found.started != self.started or found.state != "Z":
            return None
        return os.waitstatus_to_exitcode(found.exit_status)


@dataclass(frozen=True)
class Stat:
    """What /proc/PID/stat says; `state` is one letter (R, S, D, T, Z ...).

    `cpu` is in clock ticks, of the process and of the children it has waited for. `faults` are the pages that had to be
    read from a disk. `exit_status` is as `os.waitpid` gives it, and means something in state Z only.
    """

    state: str
    parent: int
    group: int
    session: int
    started: int
    faults: int
    cpu: int
    exit_status: int


def stat_of(pid: int) -> Stat | None:
    """The facts of a process, None if there is none of this pid."""
    try:
        fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    if len(fields) < 50:  # it ended while it was read
        return None
    return Stat(
        state=fields[0], parent=int(fields[1]), group=int(fields[2]), session=int(fields[3]),
        started=int(fields[19]), faults=int(fields[9]), cpu=sum(map(int, fields[11:15])), exit_status=int(fields[49]),
    )  # fmt: skip


def process(pid: int) -> Process | None:
    """The process that has this pid now."""
    found = stat_of(pid)
    return Process(pid, found.started) if found else None


def name_of(pid: int) -> str:
    """What a reader knows a process by: Ray's or vLLM's title, or its program; never used to find one."""
    with suppress(OSError):
        words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        title = " ".join(words).strip()
        return title.split(" ")[0] if title.startswith(("ray::", "VLLM::")) else Path(words[0]).name
    return ""


def told_exit(code: int | None) -> str:
    """How a process ended, for a reader: `code` is negative for a signal, None where nobody knows."""
    if code is None:
        return "its exit status is not known"
    if code >= 0:
        return f"it ended with exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal
        name = f"signal {-code}"
    return f"it was ended by {name}"


def boot() -> str:
    """This boot of the machine, and this container on it: pids and start times mean nothing beyond it."""
    with suppress(OSError):
        return f"{(PROC / 'sys/kernel/random/boot_id').read_text().strip()} {os.readlink(PROC / 'self/ns/pid')}"
    return ""


class Census:
    """Who belongs to a run. `look` is cheap: a process is examined when it is new, then only whether it is there."""

    def __init__(self, marker: str, driver: int, forks: Path | None = None):
        """`marker` is `NAME=value` in the environment of the run's processes, `forks` the warm Python's record."""
        self._marker = marker.encode() + b"\0"
        self._driver = driver
        self._forks = forks
        self._strangers: dict[int, float] = {}  # pid -> until when (seconds since boot) it is looked at again
        self.members: dict[int, Process] = {}
        self.names: dict[int, str] = {}
        self._parents: dict[int, int] = {}
        self._just_gone: set[int] = set()

    def look(self) -> list[Process]:
        """Look at every process of the machine; return the members that ended since the last look."""
        present = sorted(int(name) for name in os.listdir(PROC) if name.isdigit())
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        gone = [one for one in self.members.values() if not one.is_alive]
        for one in gone:
            del self.members[one.pid]
        self._just_gone = {one.pid for one in gone}
        self._strangers = {pid: self._strangers[pid] for pid in present if pid in self._strangers}
        for pid in present:
            if pid not in self.members and now < self._strangers.get(pid, math.inf):
                self._examine(pid)
        self._add_forks()
        return gone

    def name(self, pid: int) -> str:
        """The title of a member, also of one that is gone."""
        return self.names.get(pid) or "process"

    def named_itself(self, pid: int) -> bool:
        """Whether a member's title is its own: a fork bears that of its parent, until it becomes something else."""
        return self.name(pid) != self.names.get(self._parents.get(pid, 0))

    def fork_of(self, client: int) -> int:
        """The process that does the work of `client`: the fork that it stands for, or itself."""
        one = self.members.get(client) or process(client)
        fork = self._recorded_fork(one) if one else None
        return fork.pid if fork else client

    def _recorded_fork(self, client: Process) -> Process | None:
        if self._forks is not None:
            with suppress(OSError, ValueError):
                pid, started = (self._forks / client.id).read_text().split(".")
                return Process(int(pid), int(started))
        return None

    def warm_pythons(self) -> dict[int, Process]:
        """The warm Python and its children that are no members: what a run waits for while these still import."""
        if self._forks is None:
            return {}
        with suppress(OSError, ValueError, psutil.Error):
            warm = psutil.Process(int(self._forks.with_name("pid").read_text()))
            pids = {warm.pid, *(child.pid for child in warm.children())} - self.members.keys()
            return {pid: one for pid in pids if (one := process(pid))}
        return {}

    def is_below(self, pid: int, ancestors: Container[int]) -> bool:
        """Whether one of the `ancestors` started a member, or who started it."""
        seen = {pid}
        while (pid := self._parents.get(pid, 0)) and pid not in seen:
            if pid in ancestors:
                return True
            seen.add(pid)
        return False

    def exit_code(self, one: Process) -> int | None:
        """How a member ended, negative for a signal; None where it cannot be known.

        The warm Python records it of its forks. Of another process it stands in /proc until its parent has waited for it.
        """
        if self._forks is not None:
            with suppress(OSError, ValueError):
                return int((self._forks.with_name("exits") / one.id).read_text())
        return one.exit_code

    def refresh_names(self) -> None:
        """Titles change while a process finds its role."""
        self.names |= {pid: title for pid in self.members if (title := name_of(pid))}

    def _examine(self, pid: int) -> None:
        found = stat_of(pid)
        if found is None or found.state == "Z":
            return
        self._strangers[pid] = found.started / TICKS + _SETTLED_SECONDS
        if found.session == self._driver or found.parent in self.members or self._is_marked(pid) or self._is_led(found):
            self._add(pid, found)

    def _add(self, pid: int, found: Stat) -> None:
        self.members[pid] = Process(pid, found.started)
        self.names[pid] = name_of(pid)
        self._parents[pid] = found.parent

    def _is_led(self, found: Stat) -> bool:
        """Whether a member leads its group, or led it until this look.

        What a fork of the warm Python started just before it was killed has another parent then, and no mark in /proc. The
        number of a group that is not empty is given to nobody else.
        """
        return found.group in self.members or found.group in self._just_gone

    def _is_marked(self, pid: int) -> bool:
        try:
            return self._marker in (PROC / str(pid) / "environ").read_bytes() + b"\0"
        except OSError:  # ended, or another user's
            return False

    def _add_forks(self) -> None:
        if self._forks is None or not self._forks.is_dir():
            return
        clients = {one.id: one for one in self.members.values()}
        for name in clients.keys() & {entry.name for entry in self._forks.iterdir()}:
            fork = self._recorded_fork(clients[name])
            found = stat_of(fork.pid) if fork and fork.pid not in self.members else None
            if fork and found and found.started == fork.started and found.state != "Z":
                self._add(fork.pid, replace(found, parent=clients[name].pid))  # and not the warm Python


def kill(processes: Iterable[Process], seconds: float = 5.0) -> list[Process]:
    """Kill those of the processes that still run, and return those that do not end within `seconds`."""
    left = [one for one in processes if one.pid != os.getpid() and one.is_alive]
    for one in left:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(one.pid, signal.SIGKILL)
    until = time.monotonic() + seconds
    while (left := [one for one in left if one.is_alive]) and time.monotonic() < until:
        time.sleep(0.05)
    return left
