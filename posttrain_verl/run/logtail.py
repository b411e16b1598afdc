"""The log of a run: how much it grew, and the first real error in it. A log of any size costs its new bytes only."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

_ACTOR_PREFIX = re.compile(r"\x1b\[\d+m|^\([^)]* pid=\d+[^)]*\)\s*")
_ERROR = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Killed)(?:\([\w.]+\))?: .+")
_CHUNK = 1 << 16
_FOLLOW_SECONDS = 0.2


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
    with log.open(errors="replace") as file:
        file.seek(0, 2)
        for ended in done:
            while line := file.readline():
                yield line.rstrip("\n")
            if ended:
                return
            time.sleep(_FOLLOW_SECONDS)
