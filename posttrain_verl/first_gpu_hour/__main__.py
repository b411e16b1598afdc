"""The verb `first_gpu_hour`, or `make gpu-hour`: what a machine with a GPU does, in a report to paste into a GitHub issue.

It holds the memory that the plan foresees at the tokens that were trained against what was allocated. Without a GPU the same
way is taken on the CPU backend with the embedded model `tiny`, and the report says so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from posttrain_verl.first_gpu_hour import hour_parts, modes
from posttrain_verl.first_gpu_hour.hour_parts import Execute, Part, execute_command
from posttrain_verl.machine import devices
from posttrain_verl.machine.devices import Machine
from posttrain_verl.paths import write_atomically
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.problem import InputError, blocking
from posttrain_verl.verbs import FirstGpuHour

REPORTING_SECONDS = 5.0  # kept back for the report


@dataclass(frozen=True)
class Mode:
    """A way to spend the time: how long by default, with which models on GPUs, and the parts with the tables that sum them up."""

    minutes: int
    gpu_models: tuple[str, ...]
    run: Callable[[Sequence[str], Path, Machine, float, Execute], tuple[list[Part], list[str]]]


MODES = {
    "full": Mode(60, ("qwen2_5_0_5b_instruct",), modes.run_full),
    "short": Mode(12, ("qwen2_5_0_5b_instruct", "qwen2_5_1_5b_instruct"), modes.run_short),
}


def run(asked: FirstGpuHour, run_command: Execute = execute_command) -> int:
    """The verb without its command line. Raises InputError."""
    started, mode = time.monotonic(), MODES[asked.mode]
    if mode is MODES["short"]:
        modes.use_one_device()
    found = devices.detect_machine()
    if found.trouble and blocking([found.trouble]):
        raise InputError(asked.TITLE, [found.trouble])
    cpu = found.name == "cpu"
    models = [asked.base_model] if asked.base_model else ["tiny"] if cpu else [*mode.gpu_models]
    home = Path("runs") / "first_gpu_hour" / f"{datetime.now():%Y%m%d-%H%M%S}"
    home.mkdir(parents=True)
    seconds = (asked.minutes or mode.minutes) * 60 - (time.monotonic() - started) - REPORTING_SECONDS
    parts, tables = mode.run(models, home, found, seconds, run_command)
    out, facts = Path(asked.out or home / "report.md").expanduser(), hour_parts.machine_facts(found)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, hour_parts.report_markdown(models, facts, parts, cpu, tables))
    write_atomically(out.with_suffix(".json"), hour_parts.report_json(models, facts, parts, cpu))
    ended = hour_parts.overall_verdict(parts, cpu)
    print("\n".join([*tables, f"{ended}; paste {out} into a GitHub issue"]))
    return 0 if ended in hour_parts.GOOD_VERDICTS else 1


if __name__ == "__main__":
    sys.exit(command_line.main(FirstGpuHour, run))
