"""The verb `compare`: evaluations of one set on the questions they share."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from posttrain_verl.evaluate import comparison
from posttrain_verl.evaluate.comparison import Comparison
from posttrain_verl.evaluate.result import Result
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import stdout
from posttrain_verl.verbs import Compare


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
    return {"evaluations": metrics, "comparisons": pairs, "remarks": comparison.comparison_remarks(results)}


def run(asked: Compare) -> int:
    """The verb without its command line. Raises InputError."""
    results = comparison.load_results(asked.places, asked.runs_dir)
    compared = comparison.compare_results(results)
    if asked.as_json:
        print(json.dumps(as_json(results, compared), ensure_ascii=False))
        return 0
    console = stdout()
    comparison.print_comparisons(results, compared, comparison.comparison_remarks(results), console)
    if asked.failures:
        for result in results.values():
            comparison.print_failures(result, console)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(Compare, run))
