"""The log of a run: how much it grew, and the first real error in it. A log of any size costs its new bytes only.

A log may be rotated while it is written: renamed, so that another file gets its name, or copied and cut to nothing.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO

_ACTOR_PREFIX = re.compile(r"\x1b\[\d+m|^\([^)]* pid=\d+[^)]*\)\s*")
_ERROR = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Killed)(?:\([\w.]+\))?: .+")
_CHUNK = 1 << 16
_FOLLOW_SECONDS = 0.2


class Log:
    """The log as its supervisor holds it open for the processes that write: the same file, whatever becomes of its name."""

    def __init__(self, file: BinaryIO):
        """`file` is open for appending and reading."""
        self.file = file
        self._start = self.size

    @property
    def size(self) -> int:
        """In bytes."""
        return os.fstat(self.file.fileno()).st_size

    def first_error(self) -> str:
        """The first exception that was written since the log was opened; in what is left where it was cut meanwhile."""
        start = self._start if self.size >= self._start else 0
        return first_error(Path("/proc/self/fd", str(self.file.fileno())), start)


def first_error(log: Path, start: int = 0) -> str:
    """The first exception that the log names from byte `start` on, without Ray's prefixes: later ones are mostly its echo.

    Ray's own wrapper of an exception (RayTaskError) comes before the exception, and counts where that is missing.
    """
    wrapper = ""
    if not log.exists():
        return wrapper
    with log.open(errors="replace") as lines:
        lines.seek(start)
        for line in lines:
            text = _ACTOR_PREFIX.sub("", _ACTOR_PREFIX.sub("", line)).strip()
            if _ERROR.match(text) and "RayTaskError" not in text:
                return text
            wrapper = wrapper or (text if _ERROR.match(text) else "")
    return wrapper


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a file, read from its end."""
    with log.open("rb") as file:
        left = file.seek(0, 2)
        data = b""
        while left > 0 and data.count(b"\n") <= count:
            size = min(_CHUNK, left)
            left -= size
            file.seek(left)
            data = file.read(size) + data
    return data.decode(errors="replace").splitlines()[-count:]


def follow(log: Path, done: Iterator[bool]) -> Iterator[str]:
    """The lines that come after now, until `done` says so and all are read."""
    file = log.open(errors="replace")
    try:
        file.seek(0, os.SEEK_END)
        for ended in done:
            while line := file.readline():
                yield line.rstrip("\n")
            if ended:
                return
            time.sleep(_FOLLOW_SECONDS)
            file = _of_this_name(log, file)
    finally:
        file.close()


def _of_this_name(log: Path, file: TextIOWrapper) -> TextIOWrapper:
    """The file itself; from its beginning where it was cut, or another one where that has the name now."""
    here = os.fstat(file.fileno())
    if here.st_size < file.tell():
        file.seek(0)
    if log.exists() and not os.path.samestat(here, log.stat()) and log.stat().st_size:
        file.close()
        return log.open(errors="replace")
    return file
