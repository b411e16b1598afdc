"""The verb `compare`: evaluations of one set on the questions they share."""

from __future__ import annotations

import json
import sys

from posttrain_verl.evaluate import comparison
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import stdout
from posttrain_verl.verbs import Compare


def run(asked: Compare) -> int:
    """The verb without its command line. Raises InputError."""
    found = comparison.compare_places(asked.places, asked.runs_dir)
    if asked.as_json:
        print(json.dumps(found.as_dict(), ensure_ascii=False))
        return 0
    console = stdout()
    comparison.print_comparisons(found, console)
    if asked.failures:
        for result in found.evaluations.values():
            comparison.print_failures(result, console)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(Compare, run))
