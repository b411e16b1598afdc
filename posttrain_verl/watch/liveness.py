"""Signs of life of a run whose log is silent: what its processes do, and which parts of its work advance.

There are two kinds. *Progress* comes from work only: a line of log or metrics, another activity, a finished rollout, a file that
grows under checkpoints/. *Activity* is what work needs, and what a spinning thread has too: CPU time, reads and writes, use of
a GPU. Progress proves that the run lives. Activity only makes it likely.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from posttrain_verl.machine.processes import PROC, TICKS, Process, read_stat

WINDOW_SECONDS = 10.0  # rates are of at least so long
# In a run that hangs, each worker process of VeRL, vLLM and Ray used up to 0.015 cores and 600 bytes a second (measured on 2
# cores, Ray 2.60). A process that computes still gets 0.2 cores beside a load of 8 on 2 cores, and 0.03 beside one of 60.
BUSY_CORES, STARVED_CORES = 0.05, 0.02
BUSY_BYTES = 100_000.0  # a second
BUSY_FAULTS = 5.0  # pages a second from a disk: a machine that swaps
# Ray's own processes are as busy in a run that hangs, and so is the one that VeRL's trainer asks for finished rollouts.
_HOUSEKEEPING = (
    "raylet", "gcs_server", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE", "ray::TransferQueueController",
)  # fmt: skip


class AwakeClock:
    """Seconds in which this process could look, without those in which it was stopped, frozen, or asleep with its machine.

    Whatever stopped this process mostly stopped the run, too, so the run has not been silent. `longest` is the longest time
    between two readings that counts as awake. A busy machine may need some seconds for a look.
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
    """When each of several values last changed."""

    _values: dict[str, Hashable] = field(default_factory=dict, init=False)
    _since: dict[str, float] = field(default_factory=dict, init=False)

    def note(self, name: str, value: Hashable, now: float) -> None:
        if name not in self._values or self._values[name] != value:
            self._values[name], self._since[name] = value, now

    @property
    def last(self) -> float:
        return max(self._since.values(), default=0.0)

    def describe_ages(self, now: float) -> str:
        return ", ".join(f"{name} {now - since:.0f} s ago" for name, since in self._since.items())


@dataclass(frozen=True)
class Usage:
    """What a process has used since it began: seconds of CPU, bytes read and written, pages from a disk.

    `waits` says whether it waits for a disk or a file system now (state D).
    """

    cpu: float
    bytes: float
    faults: float
    waits: bool = False

    def rate_since(self, before: Usage, seconds: float) -> Usage:
        """The usage for each second since `before`."""
        cpu, moved, faults = self.cpu - before.cpu, self.bytes - before.bytes, self.faults - before.faults
        return Usage(cpu / seconds, moved / seconds, faults / seconds, self.waits)

    def __str__(self) -> str:
        return f"{self.cpu:.2f} cores, {self.bytes / 1000:.0f} kB/s{', waits for a disk' if self.waits else ''}"


class Activity:
    """What the processes of a run do, measured over windows of `WINDOW_SECONDS`."""

    def __init__(self, gpu_use: Callable[[], list[int]] | None = None, clock: Callable[[], float] = time.monotonic):
        self._gpu_use, self._clock = gpu_use or gpu_percent, clock
        self._began = clock()
        self._before: dict[Process, Usage] | None = None
        self.last = 0.0  # when something was last busy, by the watch's clock
        self.seen = "no window measured yet"

    @property
    def is_due(self) -> bool:
        """Whether a window has passed since the last look."""
        return self._before is None or self._clock() - self._began >= WINDOW_SECONDS

    def look(
        self, members: Mapping[int, Process], names: Mapping[int, str], now: float, polls: int | None = None
    ) -> None:
        """Measure if a window has passed. `now` is the watch's clock, `polls` the pid that only asks if others are done."""
        if not self.is_due:
            return
        seconds = self._clock() - self._began
        working = [one for pid, one in members.items() if names.get(pid, "") not in _HOUSEKEEPING and pid != polls]
        usage = {one: found for one in working if (found := _measure_usage(one.pid))}
        if self._before is not None:
            known = [one for one in usage if one in self._before]
            used = {one: usage[one].rate_since(self._before[one], seconds) for one in known}
            self._judge(used, len(usage.keys() - used.keys()), names, now)
        self._before, self._began = usage, self._clock()

    def _judge(self, used: Mapping[Process, Usage], new: int, names: Mapping[int, str], now: float) -> None:
        gpus = self._gpu_use()
        busy = [f"{names.get(one.pid, 'process')} {rate}" for one, rate in used.items() if _is_busy(rate)]
        busy += [f"GPUs at {', '.join(map(str, gpus))} %"] if any(gpus) else []
        busy += [f"{new} new processes"] if new else []
        if busy:
            self.last = now
        cpu, moved = (max((getattr(rate, name) for rate in used.values()), default=0.0) for name in ("cpu", "bytes"))
        quiet = f"at most {Usage(cpu, moved, 0.0)} in each of {len(used)} processes"
        self.seen = ", ".join([*(busy[:3] or [quiet]), *(["GPUs idle"] if gpus and not any(gpus) else [])])


def _measure_usage(pid: int) -> Usage | None:
    found = read_stat(pid)
    if found is None:
        return None
    moved = 0
    with suppress(OSError, ValueError, KeyError):  # another user's process, or it ended meanwhile
        lines = (PROC / str(pid) / "io").read_text().splitlines()
        facts = {name: int(value) for name, value in (line.split(": ") for line in lines)}
        moved = facts["rchar"] + facts["wchar"]
    return Usage(found.cpu / TICKS, moved, found.faults, found.state == "D")


def _is_busy(rate: Usage) -> bool:
    fair_share = (os.cpu_count() or 1) / max(os.getloadavg()[0], 1.0)
    cores = max(STARVED_CORES, min(BUSY_CORES, fair_share / 2))
    return rate.waits or rate.cpu >= cores or rate.bytes >= BUSY_BYTES or rate.faults >= BUSY_FAULTS


def folder_size(folder: Path) -> tuple[int, int]:
    """How many files lie under a folder, and their bytes. Times are left out: some file systems keep them in whole seconds."""
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
        return [int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) for handle in _gpu_handles()]
    except pynvml.NVMLError:
        return []


@cache
def _gpu_handles() -> list[Any]:
    """NVML's handles, kept because starting NVML takes longer than asking it."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
