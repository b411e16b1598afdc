"""The first hour on a rented GPU: `python -m posttrain_verl.first_gpu_hour [key=value ...]`, or `make gpu-hour`.

    mode=full           tests marked gpu, then check and two real steps of the smallest SFT, GRPO and LoRA recipes
    mode=short          one GPU, no network, no vLLM: training steps of made models (random weights), in 12 minutes
    minutes=60          the whole ends in that time; each part has its share
    base_model=NAME     of conf/base_model/
    out=FILE            the report, and FILE with the ending .json

Holds the memory that the plan foresees at the tokens that were trained against what was allocated, and writes a report to paste
into a GitHub issue. Without a GPU the same way is taken on the CPU backend with the embedded model `tiny`, and the report says
so. Exit code 0 when every part passed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from posttrain_verl import options
from posttrain_verl.first_gpu_hour import full, report, short
from posttrain_verl.first_gpu_hour.parts import Execute, Part, execute
from posttrain_verl.plan import hardware
from posttrain_verl.plan.hardware import Machine
from posttrain_verl.problem import InputError, Problem, blocking, exit_code, one_of
from posttrain_verl.run.folder import replace

REPORTING_SECONDS = 5.0  # kept back for the report


@dataclass(frozen=True)
class Mode:
    """A way to spend the time: how long by default, with which models, and the parts with the tables that sum them up."""

    minutes: int
    gpu_models: tuple[str, ...]
    cpu_models: tuple[str, ...]
    run: Callable[[Sequence[str], Path, Machine, float, Execute], tuple[list[Part], list[str]]]


MODES = {
    "full": Mode(60, ("qwen2_5_0_5b_instruct",), ("tiny",), full.run),
    "short": Mode(12, ("qwen2_5_0_5b_instruct", "qwen2_5_1_5b_instruct"), ("tiny",), short.run),
}


def main() -> int:
    """The verb."""
    words = options.parser("first_gpu_hour", __doc__).parse_args().words
    return exit_code(lambda: hour(words))


def hour(words: list[str], run_command: Execute = execute) -> int:
    """The verb without its command line. Raises InputError."""
    started, given = time.monotonic(), _read(words)
    mode = MODES[given["mode"]]
    if mode is MODES["short"]:
        short.use_one_device()
    found = hardware.detect()
    if found.trouble and blocking([found.trouble]):
        raise InputError("no first hour", [found.trouble])
    cpu = found.name == "cpu"
    models = [given["base_model"]] if given["base_model"] else [*(mode.cpu_models if cpu else mode.gpu_models)]
    home = Path("runs") / "first_gpu_hour" / f"{datetime.now():%Y%m%d-%H%M%S}"
    home.mkdir(parents=True)
    seconds = int(given["minutes"] or mode.minutes) * 60 - (time.monotonic() - started) - REPORTING_SECONDS
    parts, tables = mode.run(models, home, found, seconds, run_command)
    out, facts = Path(given["out"] or home / "report.md").expanduser(), report.machine_facts(found)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace(out, report.markdown(models, facts, parts, cpu, tables))
    replace(out.with_suffix(".json"), report.as_json(models, facts, parts, cpu))
    ended = report.verdict(parts, cpu)
    print("\n".join([*tables, f"{ended}; paste {out} into a GitHub issue"]))
    return 0 if ended in report.GOOD else 1


def _read(words: list[str]) -> dict[str, str]:
    given, problems = options.read(
        "first_gpu_hour", words, {"mode": "full", "minutes": "", "base_model": "", "out": ""}
    )
    problems += options.output("out", given["out"])
    if given["mode"] not in MODES:
        problems.append(Problem(f"mode={given['mode']} is no mode", one_of(given["mode"], [*MODES], "mode=")))
    if given["minutes"] and not (given["minutes"].isdecimal() and int(given["minutes"])):
        problems.append(
            Problem(f"minutes={given['minutes']} is no time", "give a whole number of minutes, e.g. minutes=12")
        )
    if problems:
        raise InputError("no first hour", problems)
    return given


if __name__ == "__main__":
    sys.exit(main())
