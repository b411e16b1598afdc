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
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
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


def threads(stack: str) -> list[list[str]]:
    """The threads of a dump, each as its frames (`function (file:line)`), innermost first; the main thread comes first."""
    found: list[tuple[bool, list[str]]] = []
    for line in stack.splitlines():
        if line.startswith("Thread "):
            found.append(('"MainThread"' in line, []))
        elif line.startswith("    ") and found:
            found[-1][1].append(line.strip())
    return [frames for _, frames in sorted(found, key=lambda one: not one[0])]


def innermost(stack: str, function: str = "") -> str:
    """The innermost frames of the thread inside `function`, or of the main one: `callee (file:line) < caller (file:line) ...`."""
    running = threads(stack)
    inside = [frames for frames in running if any(_is_call(frame, function) for frame in frames)]
    return " < ".join((inside or running or [[]])[0][:FRAMES])


def calls(stack: str, function: str) -> bool:
    """Whether a thread of the process is inside a function of this name."""
    return any(_is_call(frame, function) for frames in threads(stack) for frame in frames)


def _is_call(frame: str, function: str) -> bool:
    return frame.startswith(f"{function} (")
