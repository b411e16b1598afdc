"""Parts of the hour: each is a command with a share of the budget, and a failure of one does not keep the others from running."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain_verl.first_gpu_hour.allocation import Memory

PASSED, FAILED, OUT_OF_TIME, NOT_RUN = "passed", "failed", "out of time", "not run"
TAIL = 30  # lines of a failed part's log
LEAST_SECONDS = 10.0  # a part that would get less is not started
GRACE_SECONDS = 20.0  # for a part that is told to end, as a launch that stops its run; at most a tenth of its limit


@dataclass
class Part:
    """One part of the hour: what it runs, how it ended, and what the report says of it.

    `share` is its share of the budget beside those of the other parts, `measured` what a process of the short mode wrote.
    """

    name: str
    command: list[str]
    share: float
    state: str = NOT_RUN
    why: str = ""
    seconds: float = 0.0
    limit: float = 0.0
    lines: list[str] = field(default_factory=list)
    memory: Memory | None = None
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """Its name in names of files."""
        return self.name.replace(",", "").replace(" ", "_")


Execute = Callable[[Sequence[str], float, Path], int | None]


def execute(command: Sequence[str], seconds: float, log: Path) -> int | None:
    """Run a command that may last `seconds` and writes to `log`; returns its exit code, None if it had to be ended."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   start_new_session=True)  # fmt: skip
        grace = min(GRACE_SECONDS, seconds / 10)
        try:
            return process.wait(timeout=seconds - grace)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process, grace)


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """Tell a process to end, and after `grace` seconds end all of its session's group."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
    with suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_parts(parts: Sequence[Part], seconds: float, home: Path, run_command: Execute,
              finish: Callable[[Part], None]) -> None:  # fmt: skip
    """Run the parts one after another in `seconds`; each may take its share of what is left, so what one spares others get.

    Where little is left, the next part gets what it needs at least, and the last ones are not started.
    """
    started = time.monotonic()
    for number, part in enumerate(parts):
        left = started + seconds - time.monotonic()
        share = left * part.share / sum(each.share for each in parts[number:])
        part.limit = max(share, min(left, LEAST_SECONDS))
        if part.limit < LEAST_SECONDS:
            part.why = f"{max(left, 0):.0f} s of the budget were left"
            print(f"{part.name}: not run, {part.why}", flush=True)
            continue
        _run_part(part, home, run_command)
        finish(part)
        print(f"{part.name}: {part.state} in {part.seconds:.0f} s {part.why}", flush=True)


def _run_part(part: Part, home: Path, run_command: Execute) -> None:
    print(f"{part.name}: up to {part.limit:.0f} s: {' '.join(part.command[2:])}", flush=True)
    log, started = home / f"{part.stem}.log", time.monotonic()
    code = run_command(part.command, part.limit, log)
    part.seconds = time.monotonic() - started
    printed = log.read_text(errors="replace").splitlines() if log.is_file() else []
    part.state = PASSED if code == 0 else OUT_OF_TIME if code is None else FAILED
    part.lines = printed[-1:] if code == 0 else printed[-TAIL:]
    if code is None:
        part.why = "it used up its time"
    elif code:
        part.why = f"exit code {code}"
        print("\n".join(part.lines), flush=True)
