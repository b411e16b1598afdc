"""The verb `check` prints the plan of a recipe and everything that is wrong with it, or rehearses it."""

from __future__ import annotations

import json as json_format
import sys

from posttrain_verl import recipe_verbs
from posttrain_verl.plan import summary
from posttrain_verl.preflight import capacity, checked, overview
from posttrain_verl.preflight.checked import CheckResult
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import stdout
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Check
from posttrain_verl.verl.composed import Composed


def check_recipe(composed: Composed, json: bool = False, rehearse: bool = False, changes: bool = False) -> int:
    """Print the plan of a composed launch and its problems, or rehearse it, and return the exit code: 2 with problems.

    With `changes` each setting is shown that the hardware changed.
    """
    if rehearse:
        from posttrain_verl.rehearse import rehearse_recipe  # a check that starts nothing should not pay for it

        return rehearse_recipe(composed)
    found = checked.check_launch(composed)
    if json:
        print(json_format.dumps(found.as_dict(), indent=2))
    else:
        _print_result(composed, found, changes)
    return 0 if found.ok else 2


def _print_result(composed: Composed, found: CheckResult, changes: bool) -> None:
    out = stdout()
    for line in overview.overview_lines(composed, all_changes=True) if changes else found.overview:
        out.print(line, soft_wrap=True, markup=False)
    if not found.ok:  # before the tables, and on one stream with them
        print(InputError(found.title, found.report.problems))
    for file in found.to_build:
        out.print(f"launch will build {file}", soft_wrap=True, markup=False)
    if found.batch:
        out.print(summary.show_memory(composed, out.width))
        out.print(capacity.describe_disk(composed), soft_wrap=True, markup=False)
    print("\n".join(found.report.lines(warnings=found.ok)))
    if found.ok:
        print(found.title)


def run(asked: Check) -> int:
    """The verb without its command line. Raises InputError."""
    return recipe_verbs.run(
        asked, lambda composed: check_recipe(composed, asked.as_json, asked.rehearse, asked.changes)
    )


if __name__ == "__main__":
    sys.exit(command_line.main(Check, run))
