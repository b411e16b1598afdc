"""Check a recipe without starting anything: `python -m posttrain_verl.check recipe=math_grpo [hardware=...] [key=value ...]`.

Prints the plan (what the hardware changed, batch arithmetic, steps, memory), and all problems of all checks at once.
Exit code 0 when it can launch, 2 when it cannot. With `--rehearse` two steps, a checkpoint and a resume are run on the CPU
backend with a tiny model of the same architecture (docs/rehearsal.md); exit code 1 when they failed.
"""

from __future__ import annotations

import json as json_format
import sys
from typing import Any

from posttrain_verl import cli, preflight
from posttrain_verl.compose import Composed
from posttrain_verl.console import stdout
from posttrain_verl.plan import arithmetic, show, summary
from posttrain_verl.preflight import data, disk, schedule
from posttrain_verl.preflight.report import Report
from posttrain_verl.problem import blocking


def check(composed: Composed, json: bool = False, rehearse: bool = False) -> int:
    """Print the plan of a composed launch and what was found about it, or rehearse it.

    Raises:
        InputError: there are problems; with `json` they stand in what is printed, and the exit code says so.
    """
    if rehearse:
        from posttrain_verl import rehearsal  # a check that starts nothing should not pay for it

        return rehearsal.rehearse(composed)
    report = preflight.run(composed)
    if json:
        print(json_format.dumps(_facts(composed, report), indent=2))
        return 2 if blocking(report.problems) else 0
    _print_plan(composed, report)
    preflight.require(report.problems, composed)
    print("\n".join([*report.lines(), f"recipe '{composed.recipe}' can launch"]))
    return 0


def _facts(composed: Composed, report: Report) -> dict[str, Any]:
    problems = blocking(report.problems)
    facts = {
        "ok": not problems,
        "title": f"recipe '{composed.recipe}' {'cannot' if problems else 'can'} launch",
        "recipe": composed.recipe,
        "stage": composed.stage,
        "model": composed.model,
        "mix": composed.posttrain.mix.name,
        "hardware": composed.posttrain.hardware.name,
        "to_build": [str(file) for file in _to_build(composed)],
        "changes": [vars(change) for change in composed.changes],
        "problems": [vars(problem) for problem in problems],
        "warnings": [vars(problem) for problem in report.problems if problem not in problems],
        "checks": report.as_dict()["checks"],
    }
    if _sound(report):
        facts |= {"batch": arithmetic.words(composed), "steps": schedule.steps(composed), **summary.of(composed)}
        facts["disk"] = {"bytes": disk.needs(composed), "words": disk.words(composed)}
    return facts


def _sound(report: Report) -> bool:
    """Whether the numbers can be read: the tree has VeRL's form and the batch arithmetic holds."""
    verdicts = {verdict.check: verdict.verdict for verdict in report.verdicts}
    return all(verdicts.get(name) in ("passed", "warned") for name in ("shape", "batch"))


def _print_plan(composed: Composed, report: Report) -> None:
    out, sound = stdout(), _sound(report)
    lines = [f"recipe {composed.recipe} ({composed.stage}): model {composed.model}, mix {composed.posttrain.mix.name}, "
             f"hardware {composed.posttrain.hardware.name}{_devices(composed) if sound else ''}"]  # fmt: skip
    lines += [f"  {change}" for change in composed.changes]
    lines += [f"launch will build {file}" for file in _to_build(composed)]
    for line in lines:
        out.print(line, soft_wrap=True, markup=False)
    if sound:
        steps = schedule.steps(composed)
        out.print(arithmetic.words(composed), soft_wrap=True, markup=False)
        out.print(f"{steps} steps" if steps is not None else "steps: as many as the data has, which is not here")
        out.print(show.memory(composed, out.width))
        out.print(disk.words(composed), soft_wrap=True, markup=False)


def _devices(composed: Composed) -> str:
    node, trainer = composed.posttrain.hardware, composed.verl.trainer
    memory = f" of {node.memory_gb:g} GB" if node.memory_gb is not None else ""
    link = f", {node.interconnect}" if node.interconnect else ""
    return f" ({trainer.nnodes} x {trainer.n_gpus_per_node} devices{memory}{link})"


def _to_build(composed: Composed) -> list[object]:
    return [file for file in data.files(composed) if not file.is_file()] if data.is_offline(composed) else []


def main() -> int:
    """The verb."""
    return cli.run(check, sys.argv[1:], flags=("json", "rehearse"))


if __name__ == "__main__":
    sys.exit(main())
