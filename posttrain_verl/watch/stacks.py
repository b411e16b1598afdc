"""The Python stacks of a run's processes, by py-spy where it is installed (Ray brings it)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

SECONDS = 10.0  # for all stacks together: a stop must not wait for them
FRAMES = 3


def dump(pid: int, seconds: float = SECONDS) -> str:
    """What every thread of the process does; empty without py-spy, without the right to look, or for no Python."""
    beside = Path(sys.executable).with_name("py-spy")
    program = str(beside) if beside.is_file() else shutil.which("py-spy")
    if program is None:
        return ""
    try:
        command = [program, "dump", "--nonblocking", "--pid", str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout if done.returncode == 0 else ""


def dump_all(pids: Iterable[int], seconds: float = SECONDS) -> dict[int, str]:
    """The stacks of the processes in this order, as many as fit into `seconds`."""
    until, found = time.monotonic() + seconds, {}
    for pid in dict.fromkeys(pids):
        left = until - time.monotonic()
        if left > 0 and (text := dump(pid, left)):
            found[pid] = text
    return found


def innermost(stack: str, frames: int = FRAMES) -> str:
    """The innermost frames of the main thread, as `function (file:line) < caller (...)`."""
    lines = stack.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("Thread ")]
    main = next((number for number in starts if '"MainThread"' in lines[number]), starts[0] if starts else None)
    if main is None:
        return ""
    taken: list[str] = []
    for line in lines[main + 1 :]:
        if not line.startswith("    ") or len(taken) == frames:
            break
        taken.append(line.strip())
    return " < ".join(taken)


def calls(stack: str, function: str) -> bool:
    """Whether a thread of the process is inside a function of this name."""
    return any(line.startswith(f"    {function} (") for line in stack.splitlines())
