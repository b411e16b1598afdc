"""The rules on the machine of a run: processes that died or stopped, silence, idle GPUs, and what is running out.

A rule that stops a healthy run is worse than none. So only the death of a process that the run is known to need counts,
silence counts only where nothing else moves, and memory runs out only where the kernel would kill for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from posttrain_verl.machine.processes import PROC, SHARED_MEMORY, Process
from posttrain_verl.watch.liveness import gpu_percent

ENDING = "ending"  # the activity in which processes end because the run does
GIB = 1 << 30
CGROUP = Path("/sys/fs/cgroup")
# The files of a control group of memory, versions 2 and 1: a limit and its use. Version 1 counts swap together with memory.
_RECLAIMABLE = ("active_file", "inactive_file", "slab_reclaimable")
_MEMORY_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_SWAP_FILES = (
    ("memory.swap.max", "memory.swap.current"),
    ("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"),
)


@dataclass(frozen=True)
class Death:
    """A process or node that is gone although the run needs it. `key` identifies it."""

    key: str
    saw: str


@dataclass(frozen=True)
class Situation:
    """What the supervisor knows at one look. Times are in seconds of `AwakeClock`, which `now` reads.

    `silent` is how long there has been no progress, `idle` how long neither progress nor activity (`liveness` defines both).
    `signs` describes the signs that were looked for. `unseen` counts the run's processes on other machines.
    """

    now: float = 0.0
    silent: float = 0.0
    idle: float = 0.0
    signs: str = ""
    unseen: int = 0
    step: int | None = None
    activity: str = ""
    longest_step: float = 0.0
    deaths: tuple[Death, ...] = ()
    members: Mapping[int, Process] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    checkpoints: Path = Path()
    retention_key: str = ""  # the key that says how many checkpoints stay
    trainer: int | None = None  # pid of the process that runs the trainer's loop


@dataclass(frozen=True)
class Alarm:
    """What a rule saw, what it means, and the process to look into."""

    saw: str
    why: str
    pid: int | None = None


class MachineRule(Protocol):
    def find_fault(self, situation: Situation) -> Alarm | None: ...


@dataclass
class Persistence:
    """Since when each of several findings has come up in every look."""

    _since: dict[Hashable, float] = field(default_factory=dict)

    def lasting(self, found: Iterable[Hashable], now: float, seconds: float) -> set[Hashable]:
        """Those that were found `seconds` ago, too, and in every look since."""
        self._since = {one: self._since.get(one, now) for one in found}
        return {one for one, since in self._since.items() if now - since >= seconds}


@dataclass
class Dead:
    """A process that the run needs is gone, and the run has not ended by itself `grace` seconds later.

    VeRL mostly ends with its own error, which says more. Where it waits for ever, this rule ends it.
    """

    grace: float
    _gone: Persistence = field(default_factory=Persistence, init=False)

    def find_fault(self, situation: Situation) -> Alarm | None:
        if situation.activity == ENDING:
            return None
        lasting = self._gone.lasting([death.key for death in situation.deaths], situation.now, self.grace)
        why = "the run cannot continue without it; ray_logs has what it wrote last"
        alarms = [Alarm(death.saw, why, situation.trainer) for death in situation.deaths if death.key in lasting]
        return alarms[0] if alarms else None


@dataclass
class Stopped:
    """A process of the run is stopped (SIGSTOP), so everything that needs it waits, too.

    A process in a debugger is in another state. Where all of the run is stopped, its supervisor mostly is, too, and the
    time does not count.
    """

    seconds: float
    _stopped: Persistence = field(default_factory=Persistence, init=False)

    def find_fault(self, situation: Situation) -> Alarm | None:
        stopped = [one for one in situation.members.values() if one.is_stopped]
        lasting = self._stopped.lasting(stopped, situation.now, self.seconds)
        pid = next((one.pid for one in stopped if one in lasting), None)
        if pid is None:
            return None
        saw = f"{situation.names.get(pid, 'process')} (pid {pid}) has been stopped for {self.seconds:g} s"
        return Alarm(saw, f"a signal stopped it; kill -CONT {pid} continues it", pid)


@dataclass
class Silence:
    """The run's work does not advance.

    `seconds` is the limit without any sign of life, and `busy` the one where processes or GPUs are busy: a thread that spins
    looks like one that computes, so activity only buys time. `starting` is the limit before the first step, while models
    load and compile. `longest_steps` times the longest step is always allowed.
    """

    seconds: float
    busy: float
    starting: float
    longest_steps: float

    def find_fault(self, situation: Situation) -> Alarm | None:
        starting = self.starting if situation.step is None else 0.0
        usual = self.longest_steps * situation.longest_step
        idle_limit = starting or max(self.seconds, usual)
        busy_limit = max(self.busy, starting, self.seconds, usual)
        if situation.idle >= idle_limit and not situation.unseen:
            saw = f"no sign of life for {situation.idle:.0f} s (limit {idle_limit:.0f} s)"
            why = "a process waits for an answer that does not come"
        elif situation.silent >= busy_limit:
            saw = f"no progress for {situation.silent:.0f} s (limit {busy_limit:.0f} s)"
            why = "a busy thread without progress mostly spins"
            if situation.unseen:
                why = f"{situation.unseen} processes on other machines cannot be inspected from here"
        else:
            return None
        return Alarm(f"{saw}; looked for: {situation.signs}", f"{why}; the stacks say where", situation.trainer)


@dataclass
class GpuIdle:
    """Every GPU of the machine at 0 % for `seconds` while a step is due."""

    seconds: float
    use: Callable[[], list[int]]
    _idle: Persistence = field(default_factory=Persistence, init=False)

    def find_fault(self, situation: Situation) -> Alarm | None:
        use = self.use()
        is_idle = situation.step is not None and situation.activity != ENDING and bool(use) and max(use) == 0
        if not self._idle.lasting(["GPUs"] if is_idle else [], situation.now, self.seconds):
            return None
        saw = f"{len(use)} GPUs at 0 % for {self.seconds:g} s"
        return Alarm(saw, "the GPUs wait: for rewards, for data, or for a process that hangs", situation.trainer)


@dataclass(frozen=True)
class Memory:
    """Bytes: `left` until the kernel ends processes, of `total`."""

    left: float
    total: float


@dataclass
class HostMemory:
    """Less than the share `below` of the memory, and less than `below_gib`, is left for `seconds`.

    At 0 the kernel kills a process of its own choice. Both limits must hold, because 3 % of a large machine are plenty, and
    1 GiB is much of a small one. A moment in which a checkpoint is gathered does not count.
    """

    below: float
    below_gib: float
    seconds: float
    left: Callable[[], list[Memory]]
    _short: Persistence = field(default_factory=Persistence, init=False)

    def find_fault(self, situation: Situation) -> Alarm | None:
        short = [one for one in self.left() if one.left < min(self.below * one.total, self.below_gib * GIB)]
        if not self._short.lasting(["memory"] if short else [], situation.now, self.seconds):
            return None
        saw = f"{short[0].left / GIB:.2f} of {short[0].total / GIB:.1f} GiB of memory are left; {_largest_process(situation)}"
        return Alarm(saw, "a process leaks, or the sizes do not fit")


@dataclass
class SharedMemory:
    """Less than the share `below` of /dev/shm is left, through which weights and messages travel."""

    below: float
    folder: Path = SHARED_MEMORY

    def find_fault(self, situation: Situation) -> Alarm | None:
        if not self.folder.is_dir():
            return None
        usage = shutil.disk_usage(self.folder)
        if not usage.total or usage.free / usage.total >= self.below:
            return None
        saw = f"{usage.free / GIB:.2f} of {usage.total / GIB:.2f} GiB are left in {self.folder}"
        return Alarm(saw, "make it larger (docker run --shm-size), or delete the segments of dead programs")


@dataclass
class Disk:
    """Less than `below_gib` is left where the checkpoints go."""

    below_gib: float

    def find_fault(self, situation: Situation) -> Alarm | None:
        folder = next(one for one in [situation.checkpoints, *situation.checkpoints.parents] if one.exists())
        free = shutil.disk_usage(folder).free / GIB
        if free >= self.below_gib:
            return None
        why = f"delete old checkpoints, or set {situation.retention_key}"
        return Alarm(f"{free:.2f} GiB are left in {folder}", why)


def make_machine_rules(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, MachineRule]:
    """The rules on the machine by name, without those that are off. `settings` is `posttrain.watch` with its thresholds."""
    return {
        name: make(**{key: value for key, value in settings[name].items() if key != "do"})
        for name, make in _RULES.items()
        if settings[name]["do"] != "off"
    }


def memory_left() -> list[Memory]:
    """What is left of the machine's memory, and of the limits of the containers or jobs around this process.

    Free swap counts, and so do pages of files, because the kernel takes both before it kills.
    """
    memory, swap = psutil.virtual_memory(), psutil.swap_memory().free
    limited = [_memory_left_in(group, swap) for group in _memory_groups()]
    return [
        Memory(memory.available + swap, memory.total),
        *(one for one in limited if one and one.total < memory.total),
    ]


def _memory_groups() -> Iterator[Path]:
    """The control groups of this process that count memory (versions 1 and 2), innermost first."""
    lines: list[str] = []
    with suppress(OSError):
        lines = (PROC / "self/cgroup").read_text().splitlines()
    for _, controllers, path in (line.split(":", 2) for line in lines):
        root = CGROUP / "memory" if "memory" in controllers.split(",") else CGROUP
        if controllers and root == CGROUP:
            continue
        inner = root / path.lstrip("/")
        yield from (group for group in (inner, *inner.parents) if group.is_relative_to(root))


def _memory_left_in(group: Path, swap_free: float) -> Memory | None:
    """What is left of a group's limit; None without a limit."""
    for memory, swap in zip(_MEMORY_FILES, _SWAP_FILES, strict=True):
        with suppress(OSError, ValueError):  # the other version, no such group, or no limit
            limit, used = (float((group / name).read_text()) for name in memory)
            lines = (group / "memory.stat").read_text().splitlines()
            facts = {name.removeprefix("total_"): int(value) for name, value in map(str.split, lines)}
            left = limit - used + sum(facts.get(name, 0) for name in _RECLAIMABLE)
            with suppress(OSError, ValueError):  # swap that is not limited or not counted
                swap_limit, swap_used = (float((group / name).read_text()) for name in swap)
                swap_free = min(swap_free, max(0.0, swap_limit - swap_used))
            return Memory(left + swap_free, limit)
    return None


def _largest_process(situation: Situation) -> str:
    """Describe the process of the run that holds most memory."""
    sizes: dict[int, int] = {}
    for pid in situation.members:
        with suppress(psutil.Error):
            sizes[pid] = psutil.Process(pid).memory_info().rss
    if not sizes:
        return "none of the run's processes can be seen"
    pid = max(sizes, key=lambda one: sizes[one])
    return f"{situation.names.get(pid, 'process')} (pid {pid}) holds {sizes[pid] / GIB:.1f} GiB"


_RULES: dict[str, Callable[..., MachineRule]] = {
    "dead": Dead,
    "stopped": Stopped,
    "silence": Silence,
    "gpu_idle": lambda seconds: GpuIdle(seconds, gpu_percent),
    "host_memory": lambda **limits: HostMemory(**limits, left=memory_left),
    "shared_memory": SharedMemory,
    "disk": Disk,
}
