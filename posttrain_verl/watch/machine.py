"""The rules on the machine of a run: processes that died or stopped, silence, idle GPUs, and what is running out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import psutil

from posttrain_verl.run.leftovers import SHARED_MEMORY
from posttrain_verl.run.processes import Process

ENDING = "ending"  # the stage in which processes end because the run does
GIB = 1 << 30
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Death:
    """Something that ended while the run goes on; `key` tells it from others."""

    key: str
    saw: str


@dataclass(frozen=True)
class Situation:
    """What the supervisor knows at one look. Times are in seconds; `silent` is how long log and metrics have not grown."""

    silent: float = 0.0
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
    """A process of the run ended, and the run has not ended by itself `grace` seconds later.

    VeRL mostly ends with an error of its own, which says more; where it waits for ever, this ends it.
    """

    grace: float
    clock: Callable[[], float] = time.monotonic
    _since: dict[str, tuple[float, Death]] = field(default_factory=dict, init=False)

    def see(self, situation: Situation) -> Seen | None:
        if situation.stage == ENDING:
            return None
        for death in situation.deaths:
            self._since.setdefault(death.key, (self.clock(), death))
        for since, death in self._since.values():
            if self.clock() - since >= self.grace:
                why = "killed from outside, out of memory, or crashed: ray_logs has what it wrote last"
                return Seen(death.saw, why, situation.trainer)
        return None


@dataclass
class Stopped:
    """A process of the run is stopped (SIGSTOP, a debugger): everything that waits for it waits, too."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    _since: dict[Process, float] = field(default_factory=dict, init=False)

    def see(self, situation: Situation) -> Seen | None:
        stopped = [one for one in situation.members.values() if one.is_stopped]
        self._since = {one: self._since.get(one, self.clock()) for one in stopped}
        for one, since in self._since.items():
            if self.clock() - since >= self.seconds:
                name = situation.names.get(one.pid, "process")
                saw = f"{name} (pid {one.pid}) has been stopped for {self.seconds:g} s"
                return Seen(saw, f"a signal stopped it; kill -CONT {one.pid} lets it go on", one.pid)
        return None


@dataclass
class Silence:
    """Log and metrics have not grown for `seconds`; `starting` holds before the first step, where models load and compile.

    A step may be longer than the limit: `longest_steps` times the longest one is always allowed.
    """

    seconds: float
    starting: float
    longest_steps: float

    def see(self, situation: Situation) -> Seen | None:
        usual = max(self.seconds, self.longest_steps * situation.longest_step)
        limit = self.starting if situation.step is None else usual
        if situation.silent < limit:
            return None
        saw = f"log and metrics have been silent for {situation.silent:.0f} s (limit {limit:.0f} s)"
        return Seen(saw, "something waits for an answer that does not come; the stacks say where", situation.trainer)


@dataclass
class GpuIdle:
    """Every GPU of the machine at 0 % for `seconds` while a step is due."""

    seconds: float
    use: Callable[[], list[int]]
    clock: Callable[[], float] = time.monotonic
    _since: float | None = field(default=None, init=False)

    def see(self, situation: Situation) -> Seen | None:
        use = self.use()
        if situation.step is None or situation.stage == ENDING or not use or max(use) > 0:
            self._since = None
            return None
        self._since = self._since if self._since is not None else self.clock()
        if self.clock() - self._since < self.seconds:
            return None
        saw = f"{len(use)} GPUs at 0 % for {self.seconds:g} s"
        return Seen(saw, "the GPUs wait: for rewards, for data, or for a process that hangs", situation.trainer)


@dataclass
class HostMemory:
    """Less than the share `below` of the memory is left; at 0 the kernel kills a process of its own choice."""

    below: float
    left: Callable[[], float]

    def see(self, situation: Situation) -> Seen | None:
        left = self.left()
        if left >= self.below:
            return None
        largest = _largest(situation)
        return Seen(f"{left:.1%} of the host's memory is left; {largest}", "a process leaks, or the sizes do not fit")


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


def memory_left() -> float:
    """The share of the memory that is free: the machine's, or the container's where it has a limit of its own."""
    memory = psutil.virtual_memory()
    shares = [memory.available / memory.total]
    with suppress(OSError, ValueError):  # no cgroup of version 2, or "max"
        limit = int((CGROUP / "memory.max").read_text())
        facts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        used = int((CGROUP / "memory.current").read_text()) - int(facts["inactive_file"])
        shares.append(1 - used / limit)
    return min(shares)


def gpu_use() -> list[int]:
    """The use of each GPU of this machine in percent; empty without an NVIDIA driver."""
    import pynvml

    try:
        return [int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) for handle in _gpus()]
    except pynvml.NVMLError:
        return []


@cache
def _gpus() -> list[Any]:
    """NVML's handles: starting it takes longer than asking it."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


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
    "gpu_idle": lambda seconds: GpuIdle(seconds, gpu_use),
    "host_memory": lambda below: HostMemory(below, memory_left),
    "shared_memory": SharedMemory,
    "disk": Disk,
}
