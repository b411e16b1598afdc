"""The rules on the machine of a run: processes that died or stopped, silence, idle GPUs, and what is running out.

A rule that stops a healthy run is worse than none. So a death counts for a process that the run is known to need, silence
where nothing else moves either, and what runs out is the memory that the kernel would kill for.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from posttrain_verl.run.leftovers import SHARED_MEMORY
from posttrain_verl.run.processes import PROC, Process
from posttrain_verl.watch.life import gpu_percent

ENDING = "ending"  # the stage in which processes end because the run does
GIB = 1 << 30
CGROUP = Path("/sys/fs/cgroup")
# The files of a control group of memory, versions 2 and 1: a limit and what is used of it; of version 1 swap is counted together
# with memory.
_RECLAIMABLE = ("active_file", "inactive_file", "slab_reclaimable")
_MEMORY_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_SWAP_FILES = (
    ("memory.swap.max", "memory.swap.current"),
    ("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"),
)


@dataclass(frozen=True)
class Death:
    """A process or node that the run cannot do without, and that is gone; `key` tells it from others."""

    key: str
    saw: str


@dataclass(frozen=True)
class Situation:
    """What the supervisor knows at one look. Times are in seconds of `AwakeClock`, which `now` reads.

    `silent` is how long there has been no progress, `idle` how long neither progress nor activity (`life` says what these
    are); `signs` tells a reader which were looked for. `unseen` counts the run's processes on other machines.
    """

    now: float = 0.0
    silent: float = 0.0
    idle: float = 0.0
    signs: str = ""
    unseen: int = 0
    step: int | None = None
    stage: str = ""
    longest_step: float = 0.0
    deaths: tuple[Death, ...] = ()
    members: Mapping[int, Process] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    checkpoints: Path = Path()
    trainer: int | None = None  # pid of the process that runs the trainer's loop


@dataclass(frozen=True)
class Seen:
    """What a rule saw, what it means, and the process to look into."""

    saw: str
    why: str
    pid: int | None = None


class MachineRule(Protocol):
    def see(self, situation: Situation) -> Seen | None: ...


@dataclass
class Dead:
    """A process that the run needs is gone, and the run has not ended by itself `grace` seconds later.

    VeRL mostly ends with an error of its own, which says more; where it waits for ever, this ends it.
    """

    grace: float
    _since: dict[str, float] = field(default_factory=dict, init=False)

    def see(self, situation: Situation) -> Seen | None:
        if situation.stage == ENDING:
            return None
        self._since = {one.key: self._since.get(one.key, situation.now) for one in situation.deaths}
        for death in situation.deaths:
            if situation.now - self._since[death.key] >= self.grace:
                return Seen(
                    death.saw, "the run cannot go on without it; ray_logs has what it wrote last", situation.trainer
                )
        return None


@dataclass
class Stopped:
    """A process of the run is stopped (SIGSTOP): everything that waits for it waits, too.

    One that a debugger holds is in another state. Where all of the run is stopped its supervisor is mostly, too, and the
    time does not count.
    """

    seconds: float
    _since: dict[Process, float] = field(default_factory=dict, init=False)

    def see(self, situation: Situation) -> Seen | None:
        stopped = [one for one in situation.members.values() if one.is_stopped]
        self._since = {one: self._since.get(one, situation.now) for one in stopped}
        for one, since in self._since.items():
            if situation.now - since >= self.seconds:
                name = situation.names.get(one.pid, "process")
                saw = f"{name} (pid {one.pid}) has been stopped for {self.seconds:g} s"
                return Seen(saw, f"a signal stopped it; kill -CONT {one.pid} lets it go on", one.pid)
        return None


@dataclass
class Silence:
    """Nothing of the run's work moves on.

    `seconds` holds without any sign of life. Where processes or GPUs are busy it is `busy`: a thread that spins looks like one
    that computes, so activity only buys time. `starting` holds before the first step, where models load and compile. A step
    may be longer than all of these: `longest_steps` times the longest one is always allowed.
    """

    seconds: float
    busy: float
    starting: float
    longest_steps: float

    def see(self, situation: Situation) -> Seen | None:
        starting = self.starting if situation.step is None else 0.0
        usual = self.longest_steps * situation.longest_step
        idle_limit = starting or max(self.seconds, usual)
        busy_limit = max(self.busy, starting, self.seconds, usual)
        if situation.idle >= idle_limit and not situation.unseen:
            saw = f"no sign of life for {situation.idle:.0f} s (limit {idle_limit:.0f} s)"
            why = "something waits for an answer that does not come"
        elif situation.silent >= busy_limit:
            saw = f"no progress for {situation.silent:.0f} s (limit {busy_limit:.0f} s)"
            why = "what is busy mostly spins"
            if situation.unseen:
                why = f"{situation.unseen} processes on other machines cannot be looked at from here"
        else:
            return None
        return Seen(f"{saw}; looked for: {situation.signs}", f"{why}; the stacks say where", situation.trainer)


@dataclass
class GpuIdle:
    """Every GPU of the machine at 0 % for `seconds` while a step is due."""

    seconds: float
    use: Callable[[], list[int]]
    _since: float | None = field(default=None, init=False)

    def see(self, situation: Situation) -> Seen | None:
        use = self.use()
        if situation.step is None or situation.stage == ENDING or not use or max(use) > 0:
            self._since = None
            return None
        self._since = self._since if self._since is not None else situation.now
        if situation.now - self._since < self.seconds:
            return None
        saw = f"{len(use)} GPUs at 0 % for {self.seconds:g} s"
        return Seen(saw, "the GPUs wait: for rewards, for data, or for a process that hangs", situation.trainer)


@dataclass(frozen=True)
class Memory:
    """Bytes: `left` until the kernel ends processes, of `total`."""

    left: float
    total: float


@dataclass
class HostMemory:
    """Less than the share `below` of the memory, and less than `below_gib`, is left for `seconds`.

    At 0 the kernel kills a process of its own choice. 3 % of a large machine are plenty, and 1 GiB is much of a small one: so
    both must hold, and a moment in which a checkpoint is gathered does not count.
    """

    below: float
    below_gib: float
    seconds: float
    left: Callable[[], list[Memory]]
    _since: float | None = field(default=None, init=False)

    def see(self, situation: Situation) -> Seen | None:
        short = [one for one in self.left() if one.left < min(self.below * one.total, self.below_gib * GIB)]
        if not short:
            self._since = None
            return None
        self._since = self._since if self._since is not None else situation.now
        if situation.now - self._since < self.seconds:
            return None
        saw = f"{short[0].left / GIB:.2f} of {short[0].total / GIB:.1f} GiB of memory are left; {_largest(situation)}"
        return Seen(saw, "a process leaks, or the sizes do not fit")


@dataclass
class SharedMemory:
    """Less than the share `below` of /dev/shm is left: weights and messages travel through it."""

    below: float
    folder: Path = SHARED_MEMORY

    def see(self, situation: Situation) -> Seen | None:
        if not self.folder.is_dir():
            return None
        usage = shutil.disk_usage(self.folder)
        if not usage.total or usage.free / usage.total >= self.below:
            return None
        saw = f"{usage.free / GIB:.2f} of {usage.total / GIB:.2f} GiB are left in {self.folder}"
        return Seen(saw, "make it larger (docker run --shm-size), or delete the segments of dead programs")


@dataclass
class Disk:
    """Less than `below_gib` is left where the checkpoints go."""

    below_gib: float

    def see(self, situation: Situation) -> Seen | None:
        folder = next(one for one in [situation.checkpoints, *situation.checkpoints.parents] if one.exists())
        free = shutil.disk_usage(folder).free / GIB
        if free >= self.below_gib:
            return None
        return Seen(
            f"{free:.2f} GiB are left in {folder}", "delete old checkpoints, or set trainer.max_actor_ckpt_to_keep"
        )


def rules(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, MachineRule]:
    """The rules on the machine, by name, with the thresholds of `posttrain.watch`; those that are off are left out."""
    made = {
        name: make(**{key: value for key, value in settings[name].items() if key != "do"})
        for name, make in _RULES.items()
        if settings[name]["do"] != "off"
    }
    return dict(made)


def memory_left() -> list[Memory]:
    """What is left of the machine's memory, and of each container's or job's around this process that has a limit.

    Free swap counts, and so do pages of files: the kernel takes both before it kills.
    """
    memory, swap = psutil.virtual_memory(), psutil.swap_memory().free
    limited = [found for group in _memory_groups() if (found := _left_in(group, swap)) and found.total < memory.total]
    return [Memory(memory.available + swap, memory.total), *limited]


def _memory_groups() -> Iterator[Path]:
    """The control groups that this process is in, innermost first, where they count memory (versions 1 and 2)."""
    lines: list[str] = []
    with suppress(OSError):
        lines = (PROC / "self/cgroup").read_text().splitlines()
    for _, controllers, path in (line.split(":", 2) for line in lines):
        root = CGROUP / "memory" if "memory" in controllers.split(",") else CGROUP
        if controllers and root == CGROUP:
            continue
        inner = root / path.lstrip("/")
        yield from (group for group in (inner, *inner.parents) if group.is_relative_to(root))


def _left_in(group: Path, swap_free: float) -> Memory | None:
    """What is left of a group's limit; None where it has none."""
    for memory, swap in zip(_MEMORY_FILES, _SWAP_FILES, strict=True):
        with suppress(OSError, ValueError):  # another version's, no such group, or no limit
            limit, used = (float((group / name).read_text()) for name in memory)
            lines = (group / "memory.stat").read_text().splitlines()
            facts = {name.removeprefix("total_"): int(value) for name, value in map(str.split, lines)}
            left = limit - used + sum(facts.get(name, 0) for name in _RECLAIMABLE)
            return Memory(left + min(swap_free, _swap_left(group, *swap)), limit)
    return None


def _swap_left(group: Path, limit: str, used: str) -> float:
    """Bytes of swap that a group may still take; as many as there are where its swap is not limited, or not counted."""
    try:
        return max(0.0, float((group / limit).read_text()) - float((group / used).read_text()))
    except (OSError, ValueError):
        return float("inf")


def _largest(situation: Situation) -> str:
    """The process of the run that holds most memory."""
    sizes: dict[int, int] = {}
    for pid in situation.members:
        with suppress(psutil.Error):
            sizes[pid] = psutil.Process(pid).memory_info().rss
    if not sizes:
        return "none of the run's processes is to be seen"
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
