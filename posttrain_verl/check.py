"""The verb `check` prints the plan of a recipe and everything that is wrong with it, or rehearses it."""

from __future__ import annotations

import json as json_format
import sys
from typing import Any

from posttrain_verl import preflight, recipe_verbs
from posttrain_verl.plan import summary
from posttrain_verl.preflight import capacity, data, overview, training
from posttrain_verl.preflight.report import Report
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import stdout
from posttrain_verl.terminal.problem import InputError, blocking
from posttrain_verl.verbs import Check
from posttrain_verl.verl.composed import Composed


def check_recipe(composed: Composed, json: bool = False, rehearse: bool = False, changes: bool = False) -> int:
    """Print the plan of a composed launch and its problems, or rehearse it, and return the exit code: 2 with problems.

    With `changes` each setting is shown that the hardware changed.
    """
    if rehearse:
        from posttrain_verl.rehearse import rehearse_recipe  # a check that starts nothing should not pay for it

        return rehearse_recipe(composed)
    report = preflight.run_checks(composed)
    if json:
        print(json_format.dumps(_json_facts(composed, report), indent=2))
        return 2 if blocking(report.problems) else 0
    out, problems = stdout(), blocking(report.problems)
    for line in overview.overview_lines(composed, changes):
        out.print(line, soft_wrap=True, markup=False)
    if problems:  # before the tables, and on one stream with them
        print(InputError(f"recipe '{composed.recipe}' cannot launch", report.problems))
    _print_tables(composed, report)
    print("\n".join(report.lines(warnings=not problems)))
    if not problems:
        print(f"recipe '{composed.recipe}' can launch")
    return 2 if problems else 0


def _json_facts(composed: Composed, report: Report) -> dict[str, Any]:
    problems = blocking(report.problems)
    facts = {
        "ok": not problems,
        "title": f"recipe '{composed.recipe}' {'cannot' if problems else 'can'} launch",
        "recipe": composed.recipe,
        "stage": composed.stage.name,
        "model": composed.model,
        "mix": composed.posttrain.mix.name,
        "hardware": composed.posttrain.hardware.name,
        "to_build": [str(file) for file in _files_to_build(composed)],
        "changes": [vars(change) for change in composed.changes],
        "problems": [vars(problem) for problem in problems],
        "warnings": [vars(problem) for problem in report.problems if problem not in problems],
        "checks": report.as_dict()["checks"],
    }
    if _is_sound(report):
        facts |= {
            "batch": summary.batch_in_words(composed),
            "steps": training.count_steps(composed),
            **summary.summarize_plan(composed),
        }
        facts["disk"] = {"bytes": capacity.count_needed_bytes(composed), "words": capacity.describe_disk(composed)}
    return facts


def _is_sound(report: Report) -> bool:
    """Whether the numbers can be read: the tree has VeRL's form and the batch arithmetic holds."""
    verdicts = {verdict.check: verdict.verdict for verdict in report.verdicts}
    return all(verdicts.get(name) in ("passed", "warned") for name in ("shape", "batch"))


def _print_tables(composed: Composed, report: Report) -> None:
    out = stdout()
    for file in _files_to_build(composed):
        out.print(f"launch will build {file}", soft_wrap=True, markup=False)
    if _is_sound(report):
        out.print(summary.show_memory(composed, out.width))
        out.print(capacity.describe_disk(composed), soft_wrap=True, markup=False)


def _files_to_build(composed: Composed) -> list[object]:
    """The files of an offline mix that are not there."""
    if not data.is_offline(composed):
        return []
    return [file for file in data.list_mix_files(composed) if not file.is_file()]


def run(asked: Check) -> int:
    """The verb without its command line. Raises InputError."""
    return recipe_verbs.run(
        asked, lambda composed: check_recipe(composed, asked.as_json, asked.rehearse, asked.changes)
    )


if __name__ == "__main__":
    sys.exit(command_line.main(Check, run))
