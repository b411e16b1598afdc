"""What a source declares and yields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pyarrow as pa

from data_prep.errors import DataError, Problem
from data_prep.schema import ITEM

BATCH_ROWS = 4096  # its arrays stay in the processor's cache
PROBLEMS_SHOWN = 20
_SURROGATE = re.compile("[\ud800-\udfff]")
Options = Mapping[str, Any]
Row = Mapping[str, Any]


class BadRow(ValueError):
    """A row that cannot be used; the text says what was seen and what to do. The reader adds source and row number."""


@dataclass(frozen=True)
class SourceSpec:
    """One source of a mix. `kind` names the module that reads it, `options` are that module's own; `bad_rows` says
    whether unusable rows stop the build (`error`) or are dropped and counted (`drop`); `unique` whether two rows with
    the same question are duplicates (`question`) or only with the same solution too (`row`)."""

    name: str
    kind: str
    data_source: str
    ability: str
    options: Options
    bad_rows: str = "error"
    unique: str = "question"


@dataclass(frozen=True)
class Opened:
    """A source being read: what makes these rows again (for the manifest), and batches of `schema.ITEM`."""

    provenance: Mapping[str, Any]
    batches: Iterable[pa.RecordBatch]


@dataclass(frozen=True)
class Source:
    """A kind of source. `uses` says what its rows may serve for (sft, rl, eval), `role` what it is in a mix (core,
    adjacent, cot); `licence` and `origin` go into the manifest; `options` are the keys a mix may give; `open` reads."""

    kind: str
    data_source: str
    ability: str
    uses: tuple[str, ...]
    role: str
    licence: str
    origin: str
    options: tuple[str, ...]
    open: Callable[[SourceSpec], Opened]


def to_batch(rows: Iterable[Row]) -> pa.RecordBatch:
    """Items as one Arrow batch of `schema.ITEM`; keys that are missing become null."""
    return pa.RecordBatch.from_pylist([{name: row.get(name) for name in ITEM.names} for row in rows], schema=ITEM)


def in_batches(rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    """Items from a generator, a batch at a time."""
    rows = iter(rows)
    while chunk := list(islice(rows, BATCH_ROWS)):
        yield to_batch(chunk)


def items(
    spec: SourceSpec, rows: Iterable[Row], item: Callable[[Row], Row], first: int = 0
) -> Iterator[pa.RecordBatch]:
    """Turn raw rows into batches of items with `item`, which raises BadRow for a row it cannot use.

    `first` is the number of the first row, for ids and messages. Raises DataError after the last row, with the first
    20 bad rows, unless the spec says to drop them."""
    problems: list[Problem] = []

    def convert() -> Iterator[Row]:
        for number, row in enumerate(rows, first):
            try:
                yield _sound({"id": f"{spec.name}/{number}", **item(row)})
            except BadRow as bad:
                problems.append(bad_row(spec, number, str(bad)))
                yield {"id": f"{spec.name}/{number}", "question": "", "flaw": "bad_row"}

    yield from in_batches(convert())
    raise_bad_rows(spec, problems)


def _sound(item: Row) -> Row:
    """An item whose texts are texts that UTF-8 can hold. Raises BadRow."""
    for key, value in item.items():
        if value is None or key == "difficulty":
            continue
        if not isinstance(value, str):
            raise BadRow(f"{key} is {type(value).__name__} ({str(value)[:60]}), not a text")
        if _SURROGATE.search(value):
            raise BadRow(f"{key} holds half of a surrogate pair, which is no valid UTF-8")
    return item


def bad_row(spec: SourceSpec, number: int, what: str) -> Problem:
    """The problem for one unusable row (numbered from 0)."""
    return Problem(f"source {spec.name}, row {number}", what, "correct the row, or set bad_rows: drop for this source")


def raise_bad_rows(spec: SourceSpec, problems: list[Problem]) -> None:
    """Stop with the first 20 problems, if the spec asks for an error and there are any."""
    if not problems or spec.bad_rows == "drop":
        return
    alike: dict[str, list[Problem]] = {}
    for problem in problems:
        alike.setdefault(problem.what, []).append(problem)
    problems = [
        replace(same[0], where=same[0].where + (f" and {len(same) - 1} more" if len(same) > 1 else ""))
        for same in alike.values()
    ]
    more = len(problems) - PROBLEMS_SHOWN
    rest = [
        Problem(
            f"source {spec.name}", f"{more} more kinds of bad rows", "set bad_rows: drop to keep only the good ones"
        )
    ]
    raise DataError(*problems[:PROBLEMS_SHOWN], *(rest if more > 0 else []))


def text(row: Row, key: str) -> str:
    """A text that must be there. Raises BadRow if the column is missing, null, empty or no text."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"{key} is {'missing' if key not in row else repr(value)[:80]}, not a text")
    return value


def option_problem(name: str, key: str, what: str, remedy: str) -> DataError:
    """The error for a wrong option of source `name`."""
    return DataError(Problem(f"mix.sources.{name}.{key}", what, remedy))


def whole_option(name: str, options: Options, key: str, default: int, least: int = 0) -> int:
    """A whole number among the options of source `name`. Raises DataError."""
    value = options.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise option_problem(name, key, f"is {value!r}", f"write a whole number of at least {least}")
    return value
