"""The verb `grade`: a file of completions, graded by the rewards, with the sums of each source."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet
from rich.console import Console
from rich.progress import track
from rich.table import Table

import reward_fns
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import stdout
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verbs import Grade
from reward_fns.math.grader import grade_math, math_verify_alone
from reward_fns.math.verifier import VerifierError

FIELDS = ("data_source", "response", "ground_truth")
COUNTED = ("score", "acc", "format", "answered", "verifier_error")
SHOWN = 20  # disagreements
CHUNK = 1024  # rows in flight, so that a file larger than memory passes through

Row = dict[str, Any]


def grade_file(path: Path, reward_options: dict[str, object], *, compare: bool = False) -> list[Row]:
    """Grade every row of `path`; one dict per row: row number, data_source, the grade, and with `compare` the three
    verdicts. Raises InputError with all that is wrong with the file."""
    total = check_file(path)
    rows = enumerate(read_rows(path), start=1)

    def grade_row(numbered: tuple[int, Row]) -> Row:
        number, row = numbered
        source, response, gold = (str(row[field]) for field in FIELDS)
        result: Row = {"row": number, "data_source": source, "ground_truth": gold}
        result |= reward_fns.grade(source, response, gold, row.get("extra_info"), **reward_options)  # type: ignore[arg-type]
        if compare and reward_fns.resolve(source)[0] is grade_math:
            for mode in ("strict", "flexible"):
                result[mode] = reward_fns.grade(source, response, gold, mode=mode)["acc"]
            try:
                result["math_verify"] = float(math_verify_alone(response, gold))
            except VerifierError:
                result["math_verify"] = None
        return result

    with ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1)) as threads:
        chunks = iter(lambda: list(islice(rows, CHUNK)), [])
        work = (row for chunk in chunks for row in threads.map(grade_row, chunk))
        return list(track(work, "grading", total, console=Console(stderr=True), disable=total < CHUNK))


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a jsonl or Parquet file, `reward_model.ground_truth` lifted where it stands for `ground_truth`."""
    for row in read_raw(path):
        nested = row.get("reward_model")
        if "ground_truth" not in row and isinstance(nested, dict):
            row["ground_truth"] = nested.get("ground_truth")
        yield row


def read_raw(path: Path) -> Iterator[Row]:
    if path.suffix == ".parquet":
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(CHUNK):
            yield from batch.to_pylist()
        return
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def check_file(path: Path) -> int:
    """The number of rows. Raises InputError: no file, no rows, missing fields, sources without a reward."""
    title = f"{path} cannot be graded"
    if not path.is_file():
        raise InputError(title, [Problem(f"{path} is not a file", "give a .jsonl or .parquet file of completions")])
    total = 0
    problems: dict[str, Problem] = {}
    try:
        for total, row in enumerate(read_rows(path), start=1):
            if missing := [field for field in FIELDS if row.get(field) is None]:
                what, remedy = f"lacks {', '.join(missing)} (it has {', '.join(row)})", f"fields: {', '.join(FIELDS)}"
                problems.setdefault(remedy, Problem(f"row {total} {what}", remedy))
                continue
            try:
                reward_fns.resolve(str(row["data_source"]))
            except reward_fns.UnknownSource as error:
                what, remedy = f"data_source {row['data_source']!r} has no reward", str(error)
                problems.setdefault(remedy, Problem(f"row {total}: {what}", remedy))
    except (ValueError, AttributeError, pyarrow.ArrowInvalid) as error:
        problems["unreadable"] = Problem(f"row {total + 1}: {error}", "one JSON object a line, or a Parquet file")
    if problems or not total:
        raise InputError(title, list(problems.values()) or [Problem("the file has no rows", "nothing to grade")])
    return total


def run(asked: Grade) -> int:
    """The verb without its command line. Raises InputError."""
    file = Path(asked.arguments[0]).expanduser()
    pairs = (argument.partition("=") for argument in asked.arguments[1:])
    reward_options = {key: command_line.plain(value) for key, _, value in pairs}
    try:
        graded = grade_file(file, reward_options, compare=asked.compare)
    except ValueError as error:  # an option that no reward has, tests or golds that are none
        raise InputError(f"{file} cannot be graded", [Problem(str(error))]) from error
    if asked.out:
        target = Path(asked.out).expanduser()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(json.dumps(row) + "\n" for row in graded))
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in graded:
        for key, value in (("rows", 1), *((key, row[key]) for key in COUNTED)):
            sums[row["data_source"]][key] += float(value)
    apart = [r for r in graded if "math_verify" in r and len({r["strict"], r["flexible"], r["math_verify"]}) > 1]
    if asked.as_json:
        print(json.dumps({"sources": sums, **({"disagreements": len(apart)} if asked.compare else {})}))
        return 0
    table = Table("data_source", "rows", *COUNTED)
    for source, counted in sorted(sums.items()):
        score, *others = (counted[key] for key in COUNTED)
        table.add_row(source, f"{counted['rows']:.0f}", f"{score / counted['rows']:.4f}", *(f"{n:g}" for n in others))
    console = stdout()
    console.print(table)
    if asked.compare:
        columns = ("row", "data_source", "strict", "flexible", "math_verify", "ground_truth", "pred")
        title = f"{len(apart)} disagreement{'s' if len(apart) != 1 else ''}"
        table = Table(*columns, title=f"{title}, the first {SHOWN}" if len(apart) > SHOWN else title)
        for row in apart[:SHOWN]:
            table.add_row(*("error" if row[column] is None else str(row[column])[:60] for column in columns))
        console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(Grade, run))
