"""The processes of a run on this machine, by their ids and not by their names, and what they leave outside its folder.

A process is its pid and the time it started, because pids are used again. It belongs to a run if its environment names the
run's metrics file, or if it is in the driver's session. It also belongs if its parent or the leader of its process group
does, or if it is the fork that the warm Python made for one that does.

Ray ends its workers by force, so vLLM's sockets and the segments of its message queues (160 MiB each) stay behind after every
run, even a successful one. A segment belongs to a run if one of its processes mapped it.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

PROC = Path("/proc")
# A process gets its environment with its last exec. Ray starts a worker under the raylet's environment, and on a busy machine
# imports for many seconds before it sets the run's. An older process keeps the environment that it has.
_SETTLED_SECONDS = 120.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """`started` is in clock ticks since the machine's boot."""

    pid: int
    started: int

    @property
    def id(self) -> str:
        """Unique among the processes of this boot; the warm Python's files have it in their names."""
        return f"{self.pid}.{self.started}"

    @property
    def is_alive(self) -> bool:
        """Whether it runs. One that ended and was not waited for does not."""
        return (found := self._stat) is not None and found.state != "Z"

    @property
    def is_stopped(self) -> bool:
        return (found := self._stat) is not None and found.state == "T"

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs, and once its parent has waited for it."""
        found = self._stat
        return os.waitstatus_to_exitcode(found.exit_status) if found and found.state == "Z" else None

    @property
    def _stat(self) -> Stat | None:
        found = read_stat(self.pid)
        return found if found and found.started == self.started else None


@dataclass(frozen=True)
class Stat:
    """The content of /proc/PID/stat. `state` is one letter (R, S, D, T, Z ...).

    `cpu` is in clock ticks, and includes the children that the process has waited for. `faults` are the pages that had to be
    read from a disk. `exit_status` is as `os.waitpid` gives it, and holds in state Z only.
    """

    state: str
    parent: int
    group: int
    session: int
    started: int
    faults: int
    cpu: int
    exit_status: int


def read_stat(pid: int) -> Stat | None:
    """The facts of the process with this pid; None without one."""
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


def find_process(pid: int) -> Process | None:
    """The process that has this pid now."""
    found = read_stat(pid)
    return Process(pid, found.started) if found else None


def process_name(pid: int) -> str:
    """The name to show for a process: Ray's or vLLM's title, or its program. It is never used to find a process."""
    with suppress(OSError):
        arguments = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        title = " ".join(arguments).strip()
        return title.split(" ")[0] if title.startswith(("ray::", "VLLM::")) else Path(arguments[0]).name
    return ""


def describe_exit(code: int | None) -> str:
    """How a process ended, as a message: `code` is negative for a signal, None where nobody knows."""
    if code is None:
        return "its exit status is not known"
    if code >= 0:
        return f"it ended with exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal
        name = f"signal {-code}"
    return f"it was ended by {name}"


def boot_id() -> str:
    """Identifies this boot of the machine and this container on it. Pids and start times hold only within it."""
    with suppress(OSError):
        return f"{(PROC / 'sys/kernel/random/boot_id').read_text().strip()} {os.readlink(PROC / 'self/ns/pid')}"
    return ""


class ProcessTree:
    """The processes that belong to a run. `look` is cheap because it examines only new processes."""

    def __init__(self, marker: str, driver: int, forks: Path | None = None):
        """`marker` is `NAME=value` in the environment of the run's processes, `forks` the warm Python's record."""
        self._marker = marker.encode() + b"\0"
        self._driver = driver
        self._forks = forks
        self._strangers: dict[int, float] = {}  # pid -> until when (seconds since boot) it is examined again
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
                self._examine_process(pid)
        self._add_forks()
        return gone

    def name(self, pid: int) -> str:
        """The title of a member, even after it is gone."""
        return self.names.get(pid) or "process"

    def named_itself(self, pid: int) -> bool:
        """Whether a member's title is its own. A fork has that of its parent until it sets another."""
        return self.name(pid) != self.names.get(self._parents.get(pid, 0))

    def fork_of(self, client: int) -> int:
        """The pid that does the work of `client`: the fork that it stands for, or itself."""
        one = self.members.get(client) or find_process(client)
        fork = self._recorded_fork(one) if one else None
        return fork.pid if fork else client

    def _recorded_fork(self, client: Process) -> Process | None:
        if self._forks is not None:
            with suppress(OSError, ValueError):
                pid, started = (self._forks / client.id).read_text().split(".")
                return Process(int(pid), int(started))
        return None

    def warm_pythons(self) -> dict[int, Process]:
        """The warm Python and its children, without the members. A run waits for them while they still import."""
        if self._forks is None:
            return {}
        with suppress(OSError, ValueError, psutil.Error):
            warm = psutil.Process(int(self._forks.with_name("pid").read_text()))
            pids = {warm.pid, *(child.pid for child in warm.children())} - self.members.keys()
            return {pid: one for pid in pids if (one := find_process(pid))}
        return {}

    def is_below(self, pid: int, ancestors: Container[int]) -> bool:
        """Whether one of the `ancestors` started a member, directly or through others."""
        seen = {pid}
        while (pid := self._parents.get(pid, 0)) and pid not in seen:
            if pid in ancestors:
                return True
            seen.add(pid)
        return False

    def exit_code(self, one: Process) -> int | None:
        """How a member ended, negative for a signal; None where it cannot be known.

        The warm Python records it for its forks. Another process has it in /proc until its parent has waited for it.
        """
        if self._forks is not None:
            with suppress(OSError, ValueError):
                return int((self._forks.with_name("exits") / one.id).read_text())
        return one.exit_code

    def refresh_names(self) -> None:
        """Read the titles again, which change while a process finds its role."""
        self.names |= {pid: title for pid in self.members if (title := process_name(pid))}

    def _examine_process(self, pid: int) -> None:
        found = read_stat(pid)
        if found is None or found.state == "Z":
            return
        self._strangers[pid] = found.started / TICKS + _SETTLED_SECONDS
        # What a fork of the warm Python started just before it was killed has another parent then, and no mark in /proc. But
        # a member led its group until this look, and nobody else gets the number of a group that is not empty.
        is_led = found.group in self.members or found.group in self._just_gone
        belongs = found.session == self._driver or found.parent in self.members or is_led
        if not belongs:
            with suppress(OSError):  # it ended, or is another user's
                belongs = self._marker in (PROC / str(pid) / "environ").read_bytes() + b"\0"
        if belongs:
            self._add(pid, found)

    def _add(self, pid: int, found: Stat) -> None:
        self.members[pid] = Process(pid, found.started)
        self.names[pid] = process_name(pid)
        self._parents[pid] = found.parent

    def _add_forks(self) -> None:
        if self._forks is None or not self._forks.is_dir():
            return
        clients = {one.id: one for one in self.members.values()}
        for name in clients.keys() & {entry.name for entry in self._forks.iterdir()}:
            fork = self._recorded_fork(clients[name])
            found = read_stat(fork.pid) if fork and fork.pid not in self.members else None
            if fork and found and found.started == fork.started and found.state != "Z":
                self._add(fork.pid, replace(found, parent=clients[name].pid))  # and not the warm Python


def kill_processes(processes: Iterable[Process], seconds: float = 5.0) -> list[Process]:
    """Kill the processes that still run, and return those that do not end within `seconds`."""
    left = [one for one in processes if one.pid != os.getpid() and one.is_alive]
    for one in left:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(one.pid, signal.SIGKILL)
    until = time.monotonic() + seconds
    while (left := [one for one in left if one.is_alive]) and time.monotonic() < until:
        time.sleep(0.05)
    return left


SHARED_MEMORY = Path("/dev/shm")
_SHARE = 0.02
_PREFIX = "posttrain-"
# Ray adds 67 characters for its longest socket, and the path of a socket has at most 107. Ray also puts the path of its
# workers' Python into a command line without quotes.
_FIT_FOR_RAY = re.compile(r"[\w./-]{1,17}", re.ASCII)  # and 19 for the folder in it


@contextmanager
def temporary_folder(name: str = "") -> Iterator[Path]:
    """A folder for the temporary files and sockets of one run, deleted after it.

    It lies in TMPDIR, or in /tmp where the path of TMPDIR is too long or has odd characters.
    """
    usual = tempfile.gettempdir()
    home = usual if _FIT_FOR_RAY.fullmatch(usual) else "/tmp"
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}", dir=home))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a file may vanish while it is being deleted


def is_temporary(folder: Path) -> bool:
    """Whether `temporary_folder` made this folder for this user. It is the last check before deleting."""
    return folder.name.startswith(_PREFIX) and folder.is_dir() and folder.stat().st_uid == os.getuid()


class Segments:
    """The names of one run's shared memory: what appears in /dev/shm while it runs and one of its processes maps."""

    def __init__(self, folder: Path = SHARED_MEMORY):
        self._folder = folder
        self._before = set(_list_segments(folder))
        self._others: set[str] = set()
        self._known: set[int] = set()
        self._seen: set[str] = set()
        self._next = 0.0
        self.names: set[str] = set()

    def look(self, pids: Iterable[int], at_once: bool = False) -> None:
        """Read the memory maps of the processes if there are names without a known owner.

        Maps are long, so without `at_once` reading takes no more than the share `_SHARE` of a core. It is processor time
        that counts: on a busy machine reading takes long, and the engine of a short run would end before the next look.
        """
        listed, pids = _list_segments(self._folder), set(pids)
        unknown = listed.keys() - self._before - self.names
        new = unknown - self._others
        late = pids - self._known  # what nobody seemed to map may be of a process that is found late
        began = time.thread_time()
        if unknown and (new or late) and (at_once or time.monotonic() >= self._next):
            mapped = _read_mapped(pids if new else late, self._folder)
            self.names |= {name for name in unknown if listed[name] in mapped}
            self._others |= (new & self._seen) - self.names  # seen twice and never mapped: another program's
            self._seen, self._known = set(new), pids
            self._next = time.monotonic() + (time.thread_time() - began) / _SHARE


def unlink_unmapped(names: Iterable[str], patience: float = 0.0, folder: Path = SHARED_MEMORY) -> list[str]:
    """Delete the named segments that no process maps, and wait up to `patience` seconds for the others."""
    until, deleted, wanted = time.monotonic() + patience, [], set(names)
    while left := {name: inode for name, inode in _list_segments(folder).items() if name in wanted}:
        mapped = _read_mapped((int(entry.name) for entry in Path("/proc").glob("[0-9]*")), folder)
        free = [name for name, inode in left.items() if inode not in mapped]
        for name in free:
            (folder / name).unlink(missing_ok=True)
        deleted += free
        if len(free) == len(left) or time.monotonic() >= until:
            break
        time.sleep(0.5)
    return deleted


def _list_segments(folder: Path) -> dict[str, int]:
    """The inode of each file of the folder, by its name."""
    try:
        return {entry.name: entry.inode() for entry in os.scandir(folder) if not entry.is_dir(follow_symlinks=False)}
    except FileNotFoundError:  # a container without /dev/shm
        return {}


def _read_mapped(pids: Iterable[int], folder: Path) -> set[int]:
    """The inodes of the folder's files that the processes map, as far as this user may read it.

    A path would miss semaphores: glibc's sem_open maps a file of another name and links it to its own afterwards.
    """
    mapped, inside = set(), f" {folder}/"
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
                if inside in line:
                    mapped.add(int(line.split(maxsplit=5)[4]))
    return mapped
