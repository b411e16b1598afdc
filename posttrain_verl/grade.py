"""Grade a file of completions: `python -m posttrain_verl.grade completions.jsonl [option=value ...] [--compare]`.

The file is jsonl or Parquet with the fields `data_source`, `response` and `ground_truth` (or VeRL's
`reward_model.ground_truth`). Prints a table by source; `--compare` adds where strict mode, flexible mode and
math-verify alone disagree. Options go to the rewards (`mode=strict`, `limit=5`, `partial=true`);
`posttrain.out=FILE` writes one graded row per line. Exit code 0 when all was graded, 2 when the input is wrong.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet
from rich.console import Console
from rich.progress import track
from rich.table import Table

import reward_fns
from posttrain_verl import options
from posttrain_verl.console import stdout
from posttrain_verl.problem import InputError, Problem, exit_code
from reward_fns.math.grader import grade_math, math_verify_alone
from reward_fns.math.verifier import VerifierError

FIELDS = ("data_source", "response", "ground_truth")
COUNTED = ("score", "acc", "format", "answered", "verifier_error")
OUT = "posttrain.out"
SHOWN = 20  # disagreements
CHUNK = 1024  # rows in flight, so that a file larger than memory passes through

Row = dict[str, Any]


def grade_file(path: Path, of_rewards: dict[str, object], *, compare: bool = False) -> list[Row]:
    """Grade every row of `path`; one dict per row: row number, data_source, the grade, and with `compare` the three
    verdicts. Raises InputError with all that is wrong with the file."""
    total = check_file(path)
    graded: list[Row] = []
    rows = enumerate(read_rows(path), start=1)

    def graded_row(item: tuple[int, Row]) -> Row:
        return grade_row(*item, of_rewards, compare)

    with ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1)) as threads:
        chunks = iter(lambda: list(islice(rows, CHUNK)), [])
        work = (row for chunk in chunks for row in threads.map(graded_row, chunk))
        progress = track(work, "grading", total, console=Console(stderr=True), disable=total < CHUNK)
        graded.extend(progress)
    return graded


def grade_row(number: int, row: Row, of_rewards: dict[str, object], compare: bool) -> Row:
    source, response, gold = (str(row[field]) for field in FIELDS)
    result: Row = {"row": number, "data_source": source, "ground_truth": gold}
    result |= reward_fns.grade(source, response, gold, row.get("extra_info"), **of_rewards)  # type: ignore[arg-type]
    if compare and reward_fns.resolve(source)[0] is grade_math:
        result |= {mode: reward_fns.grade(source, response, gold, mode=mode)["acc"] for mode in ("strict", "flexible")}
        result["math_verify"] = alone(response, gold)
    return result


def alone(response: str, gold: str) -> float | None:
    """math-verify's own verdict, None when it does not come to one."""
    try:
        return float(math_verify_alone(response, gold))
    except VerifierError:
        return None


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
        raise InputError(title, [Problem(f"{path} is no file", "give a .jsonl or .parquet file of completions")])
    total = 0
    problems: dict[str, Problem] = {}
    try:
        for total, row in enumerate(read_rows(path), start=1):
            for problem in row_problems(total, row):
                problems.setdefault(problem.remedy, problem)
    except (ValueError, AttributeError, pyarrow.ArrowInvalid) as error:
        problems["unreadable"] = Problem(f"row {total + 1}: {error}", "one JSON object a line, or a Parquet file")
    if problems or not total:
        raise InputError(title, list(problems.values()) or [Problem("the file has no rows", "nothing to grade")])
    return total


def row_problems(number: int, row: Row) -> Iterator[Problem]:
    missing = [field for field in FIELDS if row.get(field) is None]
    if missing:
        yield Problem(
            f"row {number} lacks {', '.join(missing)} (it has {', '.join(row)})", f"fields: {', '.join(FIELDS)}"
        )
        return
    try:
        reward_fns.resolve(str(row["data_source"]))
    except reward_fns.UnknownSource as error:
        yield Problem(f"row {number}: data_source {row['data_source']!r} has no reward", str(error))


def table(graded: Iterable[Row]) -> Table:
    """Rows, mean score and the count of every key, by source."""
    by_source: dict[str, list[Row]] = defaultdict(list)
    for row in graded:
        by_source[row["data_source"]].append(row)
    shown = Table("data_source", "rows", *COUNTED)
    for source, rows in sorted(by_source.items()):
        sums = [sum(float(row[key]) for row in rows) for key in COUNTED]
        shown.add_row(source, str(len(rows)), f"{sums[0] / len(rows):.4f}", *(f"{value:g}" for value in sums[1:]))
    return shown


def disagreements(graded: Iterable[Row]) -> tuple[list[Row], Table]:
    """The rows on which strict, flexible and math-verify differ, and a table of the first of them."""
    apart = [r for r in graded if "math_verify" in r and len({r["strict"], r["flexible"], r["math_verify"]}) > 1]
    columns = ("row", "data_source", "strict", "flexible", "math_verify", "ground_truth", "pred")
    shown = Table(
        *columns,
        title=f"{len(apart)} disagreement{'s' if len(apart) != 1 else ''}"
        + (f", the first {SHOWN}" if len(apart) > SHOWN else ""),
    )
    for row in apart[:SHOWN]:
        shown.add_row(*("error" if row[column] is None else str(row[column])[:60] for column in columns))
    return apart, shown


def summary(graded: list[Row]) -> dict[str, dict[str, float]]:
    """For each source the number of rows and the sum of every key."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in graded:
        sums[row["data_source"]]["rows"] += 1
        for key in COUNTED:
            sums[row["data_source"]][key] += float(row[key])
    return {source: dict(values) for source, values in sums.items()}


def read_arguments(words: list[str]) -> tuple[Path, dict[str, Any], str]:
    """The file, the options of the rewards, and the file that the grades are written to ("" for none). Raises InputError."""
    file, *rest = words or [""]
    given = dict(word.partition("=")[::2] for word in rest)
    problems = [Problem(f"'{word}' is no option=value", "one file, then options") for word in rest if "=" not in word]
    if not file:
        problems.append(Problem("no file is named", "give a .jsonl or .parquet file of completions"))
    out = given.pop(OUT, "")
    problems += options.output(OUT, out)
    if problems:
        raise InputError("nothing to grade", problems)
    return Path(file).expanduser(), {key: options.plain(value) for key, value in given.items()}, out


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    parser = options.parser("grade", __doc__, "word")
    parser.add_argument("--compare", action="store_true", help="show where strict, flexible and math-verify disagree")
    parser.add_argument("--json", action="store_true", help="print the sums by source as JSON")
    chosen = parser.parse_intermixed_args(argv)
    return exit_code(lambda: run(chosen.words, chosen.json, chosen.compare), as_json=chosen.json)


def run(words: list[str], as_json: bool, compare: bool) -> int:
    """The verb without its command line. Raises InputError."""
    file, of_rewards, out = read_arguments(words)
    try:
        graded = grade_file(file, of_rewards, compare=compare)
    except ValueError as error:  # an option that no reward has, tests or golds that are none
        raise InputError(f"{file} cannot be graded", [Problem(str(error))]) from error
    if out:
        target = Path(out).expanduser()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(json.dumps(row) + "\n" for row in graded))
    show(graded, as_json, compare)
    return 0


def show(graded: list[Row], as_json: bool, compare: bool) -> None:
    if as_json:
        apart = {"disagreements": len(disagreements(graded)[0])} if compare else {}
        print(json.dumps({"sources": summary(graded), **apart}))
        return
    console = stdout()
    console.print(table(graded))
    if compare:
        console.print(disagreements(graded)[1])


if __name__ == "__main__":
    sys.exit(main())
