"""What a source declares and yields, and the helpers that its module needs to turn raw rows into items."""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from data_prep.declaration import OWN_NAME, Declaration
from data_prep.errors import DataError, Problem
from data_prep.schema import ITEM

BATCH_ROWS = 4096  # its arrays stay in the processor's cache
PROBLEMS_SHOWN = 20
FLAW_SHOWN = 1000  # characters of a row that cannot be used
_SURROGATE = re.compile("[\ud800-\udfff]")
Row = Mapping[str, Any]


class BadRow(ValueError):
    """A row that cannot be used; the text says what was seen and what to do. The reader adds source and row number."""


class BrokenRow(dict[str, Any]):
    """A row that its file does not hold as one: `what` says why, and `seen` is what stands there."""

    def __init__(self, what: str, seen: Any):
        super().__init__()
        self.what, self.seen = what, seen


class SourceSpec(Declaration):
    """One source of a mix.

    `kind` names what reads it, whose own options are fields of a subclass. `bad_rows` says whether unusable rows stop the build
    (`error`) or are dropped and counted (`drop`). `unique` says whether two rows with the same question are duplicates
    (`question`), or only with the same solution too (`row`).
    """

    name: str = Field(validation_alias=OWN_NAME)
    kind: str = Field(validation_alias="from")
    data_source: str
    ability: Literal["math", "code"]
    bad_rows: Literal["error", "drop"] = "error"
    unique: Literal["question", "row"] = "question"

    def options(self) -> dict[str, Any]:
        """The options of the kind that the mix gives, as plain values."""
        return self.model_dump(mode="json", exclude_unset=True, exclude=set(SourceSpec.model_fields))


@dataclass(frozen=True)
class Opened:
    """A source being read: what makes these rows again (for the manifest), and batches of `schema.ITEM`."""

    provenance: Mapping[str, Any]
    batches: Iterable[pa.RecordBatch]


@dataclass(frozen=True)
class Source:
    """A kind of source. `uses` says what its rows may serve for (sft, rl, eval), `role` what it is in a mix (core,
    adjacent, cot); `licence` and `origin` go into the manifest; `spec` declares what a mix may give; `open` reads.
    `{family}` in `data_source` stands for that option of the mix."""

    kind: str
    data_source: str
    licence: str
    origin: str
    open: Callable[[Any], Opened]
    spec: type[SourceSpec] = SourceSpec
    ability: str = "math"
    uses: tuple[str, ...] = ("sft", "rl", "eval")
    role: str = "core"


def in_batches(rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    """Items as Arrow batches of `schema.ITEM`; keys that are missing become null."""
    rows = iter(rows)
    while chunk := list(islice(rows, BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist([{name: row.get(name) for name in ITEM.names} for row in chunk], schema=ITEM)


def convert_rows(
    spec: SourceSpec, rows: Iterable[Row], item: Callable[[Row], Row], first: int = 0
) -> Iterator[pa.RecordBatch]:
    """Turn raw rows into batches of items with `item`, which raises BadRow for a row it cannot use.

    `first` is the number of the first row, for ids and messages. Raises DataError after the last row, with the first
    20 bad rows, unless the spec says to drop them."""
    alike: dict[str, list[str]] = {}  # what is wrong, and in which rows

    def convert() -> Iterator[Row]:
        for number, row in enumerate(rows, first):
            try:
                if isinstance(row, BrokenRow):
                    raise BadRow(row.what)
                yield _check_item({"id": f"{spec.name}/{number}", **item(row)})
            except BadRow as bad:
                alike.setdefault(str(bad), []).append(f"source {spec.name}, row {number}")
                flaw = f"{bad}: {_as_json(row)}".encode(errors="replace").decode()
                yield {"id": f"{spec.name}/{number}", "question": "", "flaw": flaw}

    yield from in_batches(convert())
    if not alike or spec.bad_rows == "drop":
        return
    remedy = "correct the row, or set bad_rows: drop for this source"
    problems = []
    for what, places in list(alike.items())[:PROBLEMS_SHOWN]:
        others = f" and {len(places) - 1} more" if len(places) > 1 else ""
        problems.append(Problem(places[0] + others, what, remedy))
    if (more := len(alike) - PROBLEMS_SHOWN) > 0:
        remedy = "set bad_rows: drop to keep only the good ones"
        problems.append(Problem(f"source {spec.name}", f"{more} more kinds of bad rows", remedy))
    raise DataError(*problems)


def _as_json(row: Row) -> str:
    """The beginning of a row as the source has it."""
    return json.dumps(row.seen if isinstance(row, BrokenRow) else row, default=str)[:FLAW_SHOWN]


def _check_item(item: Row) -> Row:
    """An item whose texts are texts that UTF-8 can hold. Raises BadRow."""
    for key, value in item.items():
        if value is None or key == "difficulty":
            continue
        if not isinstance(value, str):
            raise BadRow(f"{key} is {type(value).__name__} ({str(value)[:60]}), not a text")
        if _SURROGATE.search(value):
            raise BadRow(f"{key} holds half of a surrogate pair, which is not valid UTF-8")
    return item


def required_text(row: Row, key: str) -> str:
    """A text that must be there. Raises BadRow if the column is missing, null, empty or not a text."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"{key} is {'missing' if key not in row else repr(value)[:80]}, not a text")
    return value


def fence_program(program: str) -> str:
    """A program in a Python code fence, with Unix line ends."""
    return "```python\n" + program.replace("\r\n", "\n").strip() + "\n```"


def as_text(value: Any, key: str) -> str | None:
    """A cell as text. Raises BadRow for what is neither a text nor a number."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Decimal) and value.is_finite():
        return f"{value.normalize():f}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(f"{key} is {type(value).__name__} ({str(value)[:60]}), not a text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRow(f"{key} is {value}, not a text or a number")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def as_number(value: Any, key: str) -> float | None:
    """A cell as a number, also from text such as "3" or "Level 5"."""
    if value is None or (isinstance(value, int | float | Decimal) and not isinstance(value, bool)):
        return value if value is None else float(value)
    found = re.search(r"-?\d+(?:\.\d+)?", value) if isinstance(value, str) else None
    if found is None:
        raise BadRow(f"{key} is {str(value)[:60]!r}, not a number")
    return float(found.group())
