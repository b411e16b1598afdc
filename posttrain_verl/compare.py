"""Compare evaluations: `python -m posttrain_verl.compare A B [C ...] [--json] [--failures]`.

Each word is a file of results, a folder of them, or a run (its eval/*.json); the first is the baseline. Evaluations of one
set are compared on the questions they share: accuracy with interval, paired difference, exact McNemar test, p-values corrected
for several comparisons, and one sentence whether the gain is real. `--failures` adds 20 random wrong answers of each kind to
read. Of a single evaluation the figures are shown. Exit codes: 0 done, 2 the input is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from posttrain_verl import options
from posttrain_verl.console import stdout
from posttrain_verl.evaluation import comparison, show
from posttrain_verl.evaluation.comparison import Comparison
from posttrain_verl.evaluation.result import Result
from posttrain_verl.problem import InputError, Problem, exit_code


def as_json(results: Mapping[str, Result], compared: list[Comparison]) -> dict[str, Any]:
    """Everything `compare` knows, as plain data; numbers that do not exist are null."""
    pairs = [
        {"eval": each.eval, "first": each.first, "second": each.second, "corrected": each.corrected, "of": each.of,
         **{key: None if value != value else value for key, value in asdict(each.numbers).items()},  # NaN is not itself
         "gained_items": each.gained, "lost_items": each.lost, "verdict": each.verdict, "sentence": each.sentence()}
        for each in compared
    ]  # fmt: skip
    metrics = {name: {"n": result["n"], "noise": result["noise"], "metrics": result["metrics"],
                      "errors": result["errors"]} for name, result in results.items()}  # fmt: skip
    return {"evaluations": metrics, "comparisons": pairs, "remarks": comparison.remarks(results)}


def main() -> int:
    """The verb."""
    parser = options.parser("compare", __doc__, "A B")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--failures", action="store_true", help="show 20 random wrong answers of each kind")
    given = parser.parse_intermixed_args()
    return exit_code(lambda: run(given), as_json=given.json)


def read_arguments(words: list[str]) -> tuple[list[str], str]:
    """The files, folders and runs, and the folder of the runs. Raises InputError."""
    ours = [word for word in words if word.startswith("posttrain.")]
    places = [word.removeprefix("run=") for word in words if word not in ours]
    given, problems = options.read("compare", ours, {"posttrain.runs_dir": "runs"})
    if not places or not all(places):
        problems.append(Problem("no evaluation is named", "name files of results, folders of them, or runs"))
    if problems:
        raise InputError("nothing to compare", problems)
    return places, given["posttrain.runs_dir"]


def run(given: argparse.Namespace) -> int:
    """The verb without its command line. Raises InputError."""
    results = comparison.load(*read_arguments(given.words))
    compared = comparison.compare(results)
    if given.json:
        print(json.dumps(as_json(results, compared), ensure_ascii=False))
        return 0
    console = stdout()
    show.comparisons(results, compared, comparison.remarks(results), console)
    if given.failures:
        for result in results.values():
            show.failures(result, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
