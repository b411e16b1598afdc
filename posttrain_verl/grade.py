"""The verb `grade`: a file of completions, graded by the rewards, with the sums of each source."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet
from rich.console import Console
from rich.progress import track
from rich.table import Table

import reward_fns
from posttrain_verl import own_reward
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import log, stdout
from posttrain_verl.terminal.problem import InputError, Problem, render
from posttrain_verl.verbs import Grade
from reward_fns.math.grader import grade_math, is_plain, math_verify_alone
from reward_fns.math.verifier import VerifierError
from reward_fns.own import SIGNATURE, OwnReward, RewardError

FIELDS = ("data_source", "response", "ground_truth")
DUMPED = {"output": "response", "gts": "ground_truth"}  # of VeRL's rollouts and validation
COUNTED = ("score", "acc", "format", "answered", "verifier_error")
SHOWN = 20  # disagreements, and rows of one reason
CHUNK = 1024  # rows in flight, so that a file larger than memory passes through

Row = dict[str, Any]


@dataclass(frozen=True)
class Ungraded:
    """A row that cannot be graded: its number from 1, its id where it has one, and why."""

    row: int
    id: str
    reason: str


def grade_file(
    path: Path,
    reward_options: dict[str, object],
    *,
    compare: bool = False,
    own: OwnReward | None = None,
    source: str = "",
) -> tuple[list[Row], list[Ungraded]]:
    """Grade every row of `path`, and name those that cannot be graded.

    A graded row is a dict: row number, data_source, the grade, and with `compare` the three verdicts. `own` is a reward of the
    user's own, which grades in place of our graders, and `source` the data_source of rows without one. Raises InputError for a
    file that is none, has no rows or cannot be read, and ValueError for an option that no reward has."""
    if own is None:
        reward_fns.known_options(grade_math, reward_options)
    total = count_rows(path)
    rows = enumerate(read_rows(path, source), start=1)

    def grade_row(numbered: tuple[int, Row | str]) -> Row | Ungraded:
        number, row = numbered
        if isinstance(row, str):
            return Ungraded(number, "", row)
        if reason := find_flaw(row, any_source=own is not None):
            return Ungraded(number, row_id(row), reason)
        source, response, gold = (row[field] for field in FIELDS)
        if own:
            return grade_by(own, number, row)
        gold = str(gold) if is_plain(gold) else gold
        told = gold if isinstance(gold, str) else json.dumps(gold, default=str)
        result: Row = {"row": number, "data_source": source, "ground_truth": told}
        try:
            result |= reward_fns.grade(source, response, gold, row.get("extra_info"), **reward_options)  # type: ignore[arg-type]
            if compare and reward_fns.resolve(source)[0] is grade_math:
                result |= compare_verdicts(source, response, gold)
        except (ValueError, TypeError, SyntaxError) as error:  # tests or golds that are none
            return Ungraded(number, row_id(row), str(error))
        return result

    with ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1)) as threads:
        chunks = iter(lambda: list(islice(rows, CHUNK)), [])
        work = (row for chunk in chunks for row in threads.map(grade_row, chunk))
        done = list(track(work, "grading", total, console=Console(stderr=True), disable=total < CHUNK))
    return [row for row in done if isinstance(row, dict)], [row for row in done if isinstance(row, Ungraded)]


def grade_by(own: OwnReward, number: int, row: Row) -> Row | Ungraded:
    """A row under a reward of the user's own, or why that failed."""
    source, response, gold = (row[field] for field in FIELDS)
    try:
        parts = own.grade(source, response, gold, row.get("extra_info"))
    except RewardError as error:
        return Ungraded(number, row_id(row), f"{own.shown}: {error}")
    shown = {key: value if isinstance(value, str) or value is None else float(value) for key, value in parts.items()
             if isinstance(value, str) or value is None or hasattr(value, "__float__")}  # fmt: skip
    return {
        "row": number,
        "data_source": source,
        "ground_truth": gold if isinstance(gold, str) else json.dumps(gold, default=str),
    } | shown


def reward_of_run(path: Path) -> tuple[OwnReward | None, str]:
    """For a file in a run folder, such as `rollouts/5.jsonl`: the run's own reward, and the data_source of its data where
    that is one for all, since VeRL's dumps do not name it. (None, "") for any other file."""
    home = next((folder for folder in path.absolute().parents if (folder / "config.yaml").is_file()), None)
    if home is None or not (home / "plan.json").is_file():
        return None, ""
    settings = RunFolder(home).read_settings()
    if settings.reward is None:
        return None, ""
    column, sources = settings.reward.source_column, set[str]()
    given = settings.train_files
    for file in [given] if isinstance(given, str) else given or []:
        if Path(file).is_file() and str(file).endswith(".parquet"):
            sources |= set(pyarrow.parquet.read_table(file, columns=[column])[column].unique().to_pylist())
    own = own_reward.kept_by_run(settings.reward.own_reward, home)
    return own, str(*sources) if len(sources) == 1 else ""


def compare_verdicts(source: str, response: str, gold: object) -> Row:
    """What strict, flexible and math-verify say; None where math-verify cannot decide."""
    modes = {mode: reward_fns.grade(source, response, gold, mode=mode)["acc"] for mode in ("strict", "flexible")}
    try:
        return modes | {"math_verify": float(math_verify_alone(response, str(gold)))}
    except VerifierError:
        return modes | {"math_verify": None}


def row_id(row: Row) -> str:
    """The id of a row, its own or that of its `extra_info`; "" without one."""
    extra: Any = row.get("extra_info")
    inner = (extra.get("id"), extra.get("index")) if isinstance(extra, dict) else ()
    found = [value for value in (row.get("id"), *inner) if value is not None]
    return str(found[0]) if found else ""


def find_flaw(row: Row, any_source: bool = False) -> str:
    """Why the fields of a row are not ones that a reward takes; "" if they are. With `any_source` it is not one of ours."""
    needed = ("data_source", "response") if any_source else FIELDS  # a reward of one's own may need no gold
    if null := [field for field in needed if field in row and row[field] is None]:
        return f"{' and '.join(null)} {'are' if len(null) > 1 else 'is'} null"
    if missing := [field for field in needed if field not in row]:
        return f"lacks {', '.join(missing)} (it has {', '.join(map(str, row))})"
    row.setdefault("ground_truth", None)
    source, response, gold = (row[field] for field in FIELDS)
    for name, value in (("data_source", source), ("response", response)):
        if not isinstance(value, str):
            return f"{name} is {type(value).__name__}, not a text"
    if any_source:
        return ""
    try:
        grader = reward_fns.resolve(source)[0]
    except reward_fns.UnknownSource as error:
        return str(error)
    if grader is grade_math and not is_plain(gold):
        return f"ground_truth is {str(gold)[:60]} ({type(gold).__name__}), not a text or a number"
    return ""


def read_rows(path: Path, source: str = "") -> Iterator[Row | str]:
    """The rows of a jsonl or Parquet file, `reward_model.ground_truth` lifted where it stands for `ground_truth`.

    The fields `output` and `gts` of VeRL's dumps are response and gold, and `source` is the data_source of rows without
    one. A line that is not a JSON object is a text that says so."""
    for row in read_raw(path):
        if not isinstance(row, dict):
            yield row if isinstance(row, str) else f"is {type(row).__name__}, not an object"
            continue
        nested = row.get("reward_model")
        if "ground_truth" not in row and isinstance(nested, dict):
            row["ground_truth"] = nested.get("ground_truth")
        for theirs, ours in DUMPED.items():
            if ours not in row and theirs in row:
                row[ours] = row[theirs]
        if source:
            row.setdefault("data_source", source)
        yield row


def read_raw(path: Path) -> Iterator[object]:
    if path.suffix == ".parquet":
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(CHUNK):
            yield from batch.to_pylist()
        return
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                try:
                    found = json.loads(line)
                    yield found if isinstance(found, dict) else f"is {type(found).__name__}, not an object"
                except ValueError as error:
                    yield f"is not JSON: {error}"


def count_rows(path: Path) -> int:
    """The number of rows. Raises InputError: no file, no rows, no Parquet."""
    title = f"{path} cannot be graded"
    if not path.is_file():
        raise InputError(title, [Problem(f"{path} is not a file", "give a .jsonl or .parquet file of completions")])
    try:
        if path.suffix == ".parquet":
            total = int(pyarrow.parquet.read_metadata(path).num_rows)
        else:
            with path.open("rb") as file:
                total = sum(bool(line.strip()) for line in file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(title, [Problem(f"{path}: {error}", "one JSON object a line, or a Parquet file")]) from error
    if not total:
        raise InputError(title, [Problem("the file has no rows", "nothing to grade")])
    return total


def describe_ungraded(ungraded: list[Ungraded]) -> list[Problem]:
    """One problem for each reason, with the rows that it is about."""
    alike: dict[str, list[Ungraded]] = defaultdict(list)
    for row in ungraded:
        alike[row.reason].append(row)
    problems = []
    for reason, found in alike.items():
        named = ", ".join(f"{row.row} ({row.id})" if row.id else str(row.row) for row in found[:SHOWN])
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        problems.append(Problem(f"row{'s' if len(found) > 1 else ''} {named}{more}: {reason}"))
    remedy = f"a row has the fields {', '.join(FIELDS)}; docs/rewards.md says what each data_source is graded by"
    return [*problems[:-1], replace(problems[-1], remedy=remedy)] if problems else []


def require_callable(own: OwnReward, asked: Grade) -> None:
    """Raises InputError: the reward cannot be loaded or called, or options of our graders stand beside it."""
    title = f"{own.shown} cannot grade"
    try:
        own.check_signature()
    except RewardError as error:
        raise InputError(title, [Problem(f"{own.path}: {error}", f"VeRL calls it with {SIGNATURE}")]) from None
    if others := own_reward.other_arguments(asked.arguments[1:]):
        raise InputError(
            title, [Problem(f"'{others[0]}' is an option of our graders", f"{own_reward.ARGUMENTS}{others[0]}")]
        )
    if asked.compare:
        raise InputError(title, [Problem("--compare is about our math grader", "leave it out")])


def run(asked: Grade) -> int:
    """The verb without its command line. Raises InputError."""
    file = Path(asked.arguments[0]).expanduser()
    pairs = (argument.partition("=") for argument in own_reward.other_arguments(asked.arguments[1:]))
    reward_options = {key: command_line.plain(value) for key, _, value in pairs} | own_reward.read_arguments(
        asked.arguments
    )
    of_run, source = reward_of_run(file)
    own = own_reward.read_reward(asked.reward, asked.arguments, of_run, ours_take_arguments=True)
    if own:
        require_callable(own, asked)
        if not asked.reward:
            log.info(f"graded by the reward of the run, {own.word}")
    try:
        graded, ungraded = grade_file(file, reward_options, compare=asked.compare, own=own, source=source)
    except (ValueError, OSError) as error:  # an option that no reward has, a damaged file
        raise InputError(f"{file} cannot be graded", [Problem(str(error))]) from error
    if not graded:
        raise InputError(f"{file} cannot be graded", describe_ungraded(ungraded))
    if ungraded:
        title = f"{len(ungraded)} of {len(graded) + len(ungraded)} rows of {file} are not graded"
        print(render(title, describe_ungraded(ungraded)), file=sys.stderr)
    if asked.out:
        target = Path(asked.out).expanduser()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(json.dumps(row) + "\n" for row in graded))
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    counted_keys = COUNTED if own is None else _number_keys(graded)
    for row in graded:
        for key, value in (("rows", 1), *((key, row.get(key) or 0.0) for key in counted_keys)):
            sums[row["data_source"]][key] += float(value)
    apart = [r for r in graded if "math_verify" in r and len({r["strict"], r["flexible"], r["math_verify"]}) > 1]
    if asked.as_json:
        found = {"sources": sums, "ungraded": [asdict(row) for row in ungraded]}
        print(json.dumps({**found, **({"disagreements": len(apart)} if asked.compare else {})}))
        return int(bool(ungraded))
    table = Table("data_source", "rows", *counted_keys)
    for name, counted in sorted(sums.items()):
        score, *others = (counted[key] for key in counted_keys)
        table.add_row(name, f"{counted['rows']:.0f}", f"{score / counted['rows']:.4f}", *(f"{n:g}" for n in others))
    console = stdout()
    console.print(table)
    if asked.compare:
        columns = ("row", "data_source", "strict", "flexible", "math_verify", "ground_truth", "pred")
        title = f"{len(apart)} disagreement{'s' if len(apart) != 1 else ''}"
        table = Table(*columns, title=f"{title}, the first {SHOWN}" if len(apart) > SHOWN else title)
        for row in apart[:SHOWN]:
            table.add_row(*("error" if row[column] is None else str(row[column])[:60] for column in columns))
        console.print(table)
    return int(bool(ungraded))


def _number_keys(graded: list[Row]) -> tuple[str, ...]:
    """The keys that are numbers in every row, `score` first."""
    keys = [
        key
        for key in graded[0]
        if key not in ("row", "score") and all(isinstance(row.get(key), float) for row in graded)
    ]
    return ("score", *keys)


if __name__ == "__main__":
    sys.exit(command_line.main(Grade, run))
