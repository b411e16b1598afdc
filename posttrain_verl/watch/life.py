"""Signs of life of a run whose log is silent: what its processes do, and what of its work moves on.

There are two kinds. *Progress* is what only work brings: a line of log or metrics, another stage, a rollout that finished, a
file that grows under checkpoints/. *Activity* is what work needs, and what a thread that spins has too: CPU time, reads and
writes, use of a GPU. Progress proves that the run lives; activity only makes it likely.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from posttrain_verl.run.processes import PROC, TICKS, Process, stat_of

WINDOW_SECONDS = 10.0  # rates are of at least so long
# In a run that hangs each of VeRL's, vLLM's and Ray's worker processes took up to 0.015 cores and 600 bytes a second (measured
# on 2 cores, Ray 2.60). Beside a load of 8 on 2 cores a process that computes still gets 0.2, beside one of 60 no more than 0.03.
BUSY_CORES, STARVED_CORES = 0.05, 0.02
BUSY_BYTES = 100_000.0  # a second
BUSY_FAULTS = 5.0  # pages a second from a disk: a machine that swaps
# Ray's own processes, and the one that VeRL's trainer asks for finished rollouts, are as busy in a run that hangs.
_HOUSEKEEPING = (
    "raylet", "gcs_server", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE", "ray::TransferQueueController",
)  # fmt: skip


class AwakeClock:
    """Seconds in which this process could look: what passes while it is stopped, frozen, or asleep with its machine is left out.

    Whatever held it up mostly held the run up, too, and a run that could not do anything has not been silent. `longest` is the
    longest time between two readings that counts as awake; a busy machine may need some seconds for a look.
    """

    def __init__(self, longest: float = 10.0, clock: Callable[[], float] = time.monotonic):
        self._longest, self._clock = longest, clock
        self._last, self._seconds = clock(), 0.0

    def __call__(self) -> float:
        now = self._clock()
        self._seconds += min(now - self._last, self._longest)
        self._last = now
        return self._seconds


@dataclass
class Changes:
    """When each of several things last became another one."""

    _values: dict[str, Hashable] = field(default_factory=dict, init=False)
    _since: dict[str, float] = field(default_factory=dict, init=False)

    def note(self, name: str, value: Hashable, now: float) -> None:
        if self._values.get(name, _NEVER) != value:
            self._values[name], self._since[name] = value, now

    @property
    def last(self) -> float:
        return max(self._since.values(), default=0.0)

    def told(self, now: float) -> str:
        return ", ".join(f"{name} {now - since:.0f} s ago" for name, since in self._since.items())


@dataclass(frozen=True)
class Usage:
    """What a process has used since it began: CPU in seconds, bytes read and written, pages from a disk.

    `waits` is whether it waits for a disk or a file system now (state D).
    """

    cpu: float
    bytes: float
    faults: float
    waits: bool = False


class Activity:
    """What the processes of a run do, measured over windows of `WINDOW_SECONDS`."""

    def __init__(self, gpu_use: Callable[[], list[int]] | None = None, clock: Callable[[], float] = time.monotonic):
        self._gpu_use, self._clock = gpu_use or gpu_percent, clock
        self._began = clock()
        self._before: dict[Process, Usage] | None = None
        self.last = 0.0  # of the watch's clock: when something was last busy
        self.seen = "no window measured yet"

    @property
    def is_due(self) -> bool:
        """Whether a window has passed since the last look."""
        return self._before is None or self._clock() - self._began >= WINDOW_SECONDS

    def look(
        self, members: Mapping[int, Process], names: Mapping[int, str], now: float, polls: int | None = None
    ) -> None:
        """Measure, if a window has passed. `now` is the watch's clock, `polls` who only asks if others are done."""
        if not self.is_due:
            return
        seconds = self._clock() - self._began
        working = [one for pid, one in members.items() if names.get(pid, "") not in _HOUSEKEEPING and pid != polls]
        usage = {one: found for one in working if (found := _usage(one.pid))}
        if self._before is not None:
            used = {
                one: _rates(found, self._before[one], seconds) for one, found in usage.items() if one in self._before
            }
            self._judge(used, len(usage.keys() - used.keys()), names, now)
        self._before, self._began = usage, self._clock()

    def _judge(self, used: Mapping[Process, Usage], new: int, names: Mapping[int, str], now: float) -> None:
        gpus = self._gpu_use()
        busy = [f"{names.get(one.pid, 'process')} {_told(rate)}" for one, rate in used.items() if _is_busy(rate)]
        busy += [f"GPUs at {', '.join(map(str, gpus))} %"] if any(gpus) else []
        busy += [f"{new} new processes"] if new else []
        if busy:
            self.last = now
        quiet = f"at most {_told(_highest(used.values()))} in each of {len(used)} processes"
        self.seen = ", ".join([*(busy[:3] or [quiet]), *(["GPUs idle"] if gpus and not any(gpus) else [])])


def _usage(pid: int) -> Usage | None:
    found = stat_of(pid)
    if found is None:
        return None
    moved = 0
    with suppress(OSError, ValueError, KeyError):  # another user's, or it ended while it was read
        lines = (PROC / str(pid) / "io").read_text().splitlines()
        facts = {name: int(value) for name, value in (line.split(": ") for line in lines)}
        moved = facts["rchar"] + facts["wchar"]
    return Usage(found.cpu / TICKS, moved, found.faults, found.state == "D")


def _rates(now: Usage, before: Usage, seconds: float) -> Usage:
    cpu, moved, faults = now.cpu - before.cpu, now.bytes - before.bytes, now.faults - before.faults
    return Usage(cpu / seconds, moved / seconds, faults / seconds, now.waits)


def _is_busy(rate: Usage) -> bool:
    fair_share = (os.cpu_count() or 1) / max(os.getloadavg()[0], 1.0)
    cores = max(STARVED_CORES, min(BUSY_CORES, fair_share / 2))
    return rate.waits or rate.cpu >= cores or rate.bytes >= BUSY_BYTES or rate.faults >= BUSY_FAULTS


def _highest(rates: Iterable[Usage]) -> Usage:
    every = list(rates) or [Usage(0.0, 0.0, 0.0)]
    return Usage(max(one.cpu for one in every), max(one.bytes for one in every), max(one.faults for one in every))


def _told(rate: Usage) -> str:
    return f"{rate.cpu:.2f} cores, {rate.bytes / 1000:.0f} kB/s{', waits for a disk' if rate.waits else ''}"


def folder_size(folder: Path) -> tuple[int, int]:
    """How many files lie under a folder, and their bytes; no times, which some file systems keep in steps of seconds."""
    count = size = 0
    for home, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # deleted meanwhile
                size += os.lstat(os.path.join(home, name)).st_size
                count += 1
    return count, size


def gpu_percent() -> list[int]:
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


_NEVER = object()
