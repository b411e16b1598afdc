"""Reading what a run writes while it trains: metrics.jsonl and log.txt.

VeRL's `file` logger writes metrics.jsonl, one `{"step", "data"}` a line. The log may be rotated while it is written: it is
renamed, so that another file gets its name, or copied and emptied. Of a log of any size only the new bytes are read.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from posttrain_verl.run.folder import Status
from posttrain_verl.verl.metrics import (
    HELD_OUT_ACCURACY,
    HELD_OUT_REWARD,
    LIVE,
    SHOWN,
    STEP_SECONDS,
    STEP_TOKENS,
    VALIDATION_CORE,
    with_held_out,
)
from posttrain_verl.verl.progress import FAILED_ANSWER


class MetricsTail:
    """Follows a growing metrics.jsonl. `read` yields the complete lines since the last call, and `offset` is in bytes."""

    def __init__(self, path: Path):
        self._path = path
        self.offset = 0

    def read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from map(parse_line, self.read_lines())

    def read_lines(self) -> Iterator[bytes]:
        """The lines as they are in the file, but for one that a full disk broke."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                if is_whole_line(line):
                    yield line


def is_whole_line(line: bytes) -> bool:
    """Whether a line is a whole record. It may be the beginning of one, while it is written or where the disk was full."""
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def parse_line(line: bytes) -> tuple[int, dict[str, Any]]:
    """The step of a line and what was measured in it."""
    record = json.loads(line)
    return int(record["step"]), record["data"]


def metrics_by_step(path: Path) -> dict[int, dict[str, Any]]:
    """What was measured in each step, in the order of steps. A validation has a line of its own in the file."""
    found: dict[int, dict[str, Any]] = {}
    for record in map(json.loads, path.read_text().splitlines()):
        found.setdefault(int(record["step"]), {}).update(record["data"])
    return dict(sorted(found.items()))


def step_line(step: int, metrics: dict[str, Any]) -> str:
    """One line for a reader: the step, and its metrics that are in `SHOWN`."""
    named = [(label, metrics.get(key)) for key, label in SHOWN.items()]
    validation = (HELD_OUT_ACCURACY, HELD_OUT_REWARD, VALIDATION_CORE)
    shown = {key: value for key, value in with_held_out(metrics).items() if key.startswith(validation)}
    named += [(key.removeprefix(VALIDATION_CORE), value) for key, value in shown.items()]
    # VeRL writes NaN as null.
    return f"step {step}: " + ", ".join(f"{label} {value:.4g}" for label, value in named if _is_number(value))


def step_of_line(line: str) -> int | None:
    """The step of a line of `step_line`; None for another line."""
    found = re.match(r"step (\d+): ", line)
    return int(found[1]) if found else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def progress_line(status: Status, metrics: dict[str, Any], step_seconds: float | None) -> str:
    """What the live line of a run says: stage, step, reward or loss, length, tokens/s, and when it will be done."""
    total = f"/{status.total_steps}" if status.total_steps else ""
    doing = "starting" if status.last_step is None else "training"
    parts = [status.stage or doing, f"step {status.last_step or 0}{total}"]
    parts += [f"{metric.short} {metrics[metric.key]:.4g}" for metric in LIVE if _is_number(metrics.get(metric.key))]
    if speed := tokens_per_second(metrics, step_seconds):
        parts.append(f"{speed:.0f} tokens/s")
    if status.total_steps and step_seconds and status.last_step is not None:
        parts.append(f"ETA {format_duration(step_seconds * (status.total_steps - status.last_step))}")
    return ", ".join(parts)


def tokens_per_second(metrics: dict[str, Any], step_seconds: float | None) -> float | None:
    """Tokens of a step over its seconds, for all GPUs together. Prompts and responses count, padding does not."""
    tokens = next((metrics[key] for key in STEP_TOKENS if key in metrics), None)
    seconds = metrics.get(STEP_SECONDS, step_seconds)
    return tokens / seconds if tokens and seconds else None


def format_duration(seconds: float) -> str:
    """`3 d 4 h`, `1 h 5 min`, `12 min`, `40 s`."""
    minutes = int(seconds) // 60
    if minutes >= 48 * 60:
        return f"{minutes // 1440} d {minutes // 60 % 24} h"
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


_ACTOR_PREFIX = re.compile(r"\x1b\[\d+m|^\([^)]* pid=\d+[^)]*\)\s*")
_ERROR = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Killed)(?:\([\w.]+\))?: .+")


class Log:
    """The log as its supervisor holds it open for the processes that write. It stays the same file if it is renamed."""

    def __init__(self, file: BinaryIO):
        """`file` is open for appending and reading."""
        self.file = file
        self._start = self.size

    @property
    def size(self) -> int:
        """In bytes."""
        return os.fstat(self.file.fileno()).st_size

    def first_failed_answer(self) -> str:
        """Why an answer failed first: the exception of its reward or agent loop, or the line that says it. "" if none did."""
        with Path("/proc/self/fd", str(self.file.fileno())).open(errors="replace") as lines:
            lines.seek(self._start if self.size >= self._start else 0)
            return first_failed_answer(lines)

    def first_error(self) -> str:
        """The first exception since the log was opened, or in all that is left where the log was cut meanwhile."""
        start = self._start if self.size >= self._start else 0
        return first_error(Path("/proc/self/fd", str(self.file.fileno())), start)


def first_error(log: Path, start: int = 0) -> str:
    """The first exception in the log from byte `start` on, without Ray's prefixes. Later ones mostly repeat it.

    Ray's own wrapper of an exception (RayTaskError) comes before the exception, and counts where that is missing.
    """
    if not log.exists():
        return ""
    with log.open(errors="replace") as lines:
        lines.seek(start)
        return first_error_of(lines)


def first_error_of(lines: Iterable[str]) -> str:
    """As `first_error`, of the lines of a log."""
    wrapper = ""
    for line in lines:
        text = _ACTOR_PREFIX.sub("", _ACTOR_PREFIX.sub("", line)).strip()
        if _ERROR.match(text) and "RayTaskError" not in text:
            return text
        wrapper = wrapper or (text if _ERROR.match(text) else "")
    return wrapper


def first_failed_answer(lines: Iterable[str]) -> str:
    """As `Log.first_failed_answer`, of the lines of a log."""
    rest = iter(lines)
    for line in rest:
        if found := FAILED_ANSWER.search(line):
            said = found[0].strip()
            return said if " for data_source" in said else first_error_of(rest)
    return ""


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a file, read from its end."""
    with log.open("rb") as file:
        left = file.seek(0, 2)
        data = b""
        while left > 0 and data.count(b"\n") <= count:
            size = min(1 << 16, left)
            left -= size
            file.seek(left)
            data = file.read(size) + data
    return data.decode(errors="replace").splitlines()[-count:]


def last_records(file: Path, count: int) -> list[bytes]:
    """The whole ones among the last lines of a file of JSON objects; none where there is no file."""
    lines = last_lines(file, count) if file.exists() else []
    return [line for line in (f"{text}\n".encode() for text in lines) if is_whole_line(line)]


def follow_log(log: Path, done: Iterator[bool]) -> Iterator[str]:
    """The lines that are written from now on, until `done` yields true and all of them are read."""
    file = log.open(errors="replace")
    try:
        file.seek(0, os.SEEK_END)
        for ended in done:
            while line := file.readline():
                yield line.rstrip("\n")
            if ended:
                return
            time.sleep(0.2)
            here = os.fstat(file.fileno())
            if here.st_size < file.tell():  # it was cut
                file.seek(0)
            if log.exists() and not os.path.samestat(here, log.stat()) and log.stat().st_size:  # another has its name
                file.close()
                file = log.open(errors="replace")
    finally:
        file.close()
