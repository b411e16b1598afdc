"""Check a recipe without starting anything: `python -m posttrain_verl.check recipe=math_grpo [key=value ...]`.

Composes it, checks keys, model, data, batch arithmetic, schedule, disk and run folder, and prints all problems at once.
Exit code 0 when it can launch, 2 when it cannot. With `--rehearse` two steps, a checkpoint and a resume are run on the CPU
backend with a tiny model of the same architecture (docs/rehearsal.md); exit code 1 when they failed.
"""

from __future__ import annotations

import json as json_format
import sys

from posttrain_verl import cli, preflight
from posttrain_verl.compose import Composed
from posttrain_verl.preflight import batch, data
from posttrain_verl.preflight.report import Report


def check(composed: Composed, json: bool = False, rehearse: bool = False) -> int:
    """Print what was found about a composed launch, or rehearse it.

    Raises:
        InputError: there are problems.
    """
    if rehearse:
        from posttrain_verl import rehearsal  # a check that starts nothing should not pay for it

        return rehearsal.rehearse(composed)
    report = preflight.run(composed)
    preflight.require(report.problems, composed)
    if json:
        print(json_format.dumps(_facts(composed, report), indent=2))
    else:
        print("\n".join(_lines(composed, report)))
    return 0


def _facts(composed: Composed, report: Report) -> dict[str, object]:
    return {
        "ok": True,
        "recipe": composed.recipe,
        "stage": composed.stage,
        "model": composed.model,
        "mix": composed.posttrain.mix.name,
        "hardware": composed.posttrain.hardware.name,
        "batch": batch.words(composed),
        "to_build": [str(file) for file in _to_build(composed)],
        "changes": [vars(change) for change in composed.changes],
        "problems": [],
        "warnings": [vars(problem) for problem in report.problems],
        "checks": report.as_dict()["checks"],
    }


def _lines(composed: Composed, report: Report) -> list[str]:
    facts = _facts(composed, report)
    lines = ["recipe {recipe} ({stage}): model {model}, mix {mix}, hardware {hardware}".format(**facts)]
    lines += [f"  {change}" for change in composed.changes]
    lines.append(str(facts["batch"]))
    lines += [f"launch will build {file}" for file in _to_build(composed)]
    return [*lines, *report.lines(), f"recipe '{composed.recipe}' can launch"]


def _to_build(composed: Composed) -> list[object]:
    return [file for file in data.files(composed) if not file.is_file()]


def main() -> int:
    """The verb."""
    return cli.run(check, sys.argv[1:], flags=("json", "rehearse"))


if __name__ == "__main__":
    sys.exit(main())
