"""The rows of a data file: Parquet, streamed, with only the columns that are asked for, and the JSON that VeRL reads.

Rows are numbered from 0, as Arrow and pandas number them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq
from pyarrow import types

from posttrain_verl.preflight.report import CannotTell

BATCH_ROWS = 4096
READ_BYTES = 2**20  # of a column at a time, and not a whole row group
JSON_BLOCK = 2**26  # bytes; a row must fit into one
SAMPLED_GROUPS = 8  # row groups that are read of one file
JSON_NAMES = (".json", ".jsonl")

Row = dict[str, Any]


class UnreadRows(CannotTell):
    """Rows that could not be looked at. VeRL cannot read them either where they are `damaged`."""

    def __init__(self, what: str, damaged: bool = False):
        super().__init__(what)
        self.damaged = damaged


def is_parquet(file: Path) -> bool:
    """Whether the file begins like a Parquet file (magic bytes PAR1)."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def is_table(file: Path) -> bool:
    """Whether the file is Parquet, or is named like the JSON that VeRL reads."""
    return is_parquet(file) or (file.is_file() and file.suffix in JSON_NAMES)


def read_schema(file: Path) -> pa.Schema:
    """The columns. Raises ArrowInvalid or OSError for a file that cannot be read."""
    return pq.read_schema(file) if is_parquet(file) or file.suffix not in JSON_NAMES else _json_table(file).schema


def count_rows(file: Path) -> int:
    """Raises ArrowInvalid or OSError for a file that cannot be read."""
    if is_parquet(file) or file.suffix not in JSON_NAMES:
        return int(pq.read_metadata(file).num_rows)
    return int(_json_table(file).num_rows)


def read_batches(file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """All rows in order, with `columns` of them. Parquet of any size takes the memory of a few batches.

    Raises UnreadRows for damaged data and for types that Arrow does not read in batches.
    """
    if not is_parquet(file):
        yield from _json_table(file).select(list(columns)).to_batches(BATCH_ROWS)
        return
    try:
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=READ_BYTES) as parquet:
            for group in range(parquet.num_row_groups):  # a batch over two groups fails with nested dictionaries
                for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=list(columns)):
                    batch.validate(full=True)  # also that texts are UTF-8
                    yield batch
    except pa.ArrowNotImplementedError as error:
        raise UnreadRows(f"the rows of {file} were not looked at: {error}") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise UnreadRows(f"{file} is damaged: {error}", damaged=True) from error


def take_rows(file: Path, columns: Sequence[str], numbers: Sequence[int]) -> list[Row]:
    """The rows of these numbers, which rise."""
    wanted, found, first = np.asarray(numbers, dtype=np.int64), list[Row](), 0
    for batch in read_batches(file, columns) if len(wanted) else ():
        here = wanted[(wanted >= first) & (wanted < first + batch.num_rows)]
        found += _pick(batch, (here - first).tolist())
        first += batch.num_rows
    return found


def _pick(table: pa.Table | pa.RecordBatch, numbers: Sequence[int]) -> list[Row]:
    """Rows by their numbers, also of types that Arrow's `take` does not know."""
    return [row for number in numbers for row in table.slice(number, 1).to_pylist()]


def sample_rows(file: Path, columns: Sequence[str], count: int) -> list[Row]:
    """Up to `count` rows with `columns` of them, evenly spaced over SAMPLED_GROUPS row groups of the file.

    The rows are the same for the same file, so the verdict of a check does not depend on luck.
    """
    if not is_parquet(file):
        table = _json_table(file).select(list(columns))
        return _pick(table, spread_evenly(table.num_rows, count))
    try:
        with pq.ParquetFile(file) as parquet:
            groups = spread_evenly(parquet.num_row_groups, SAMPLED_GROUPS)
            found = [parquet.read_row_group(group, columns=list(columns)) for group in groups]
        for table in found:
            table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise UnreadRows(f"{file} cannot be read: {error}") from error
    places = spread_evenly(sum(table.num_rows for table in found), count)
    sampled, first = list[Row](), 0
    for table in found:
        sampled += _pick(table, [place - first for place in places if first <= place < first + table.num_rows])
        first += table.num_rows
    return sampled


def spread_evenly(total: int, count: int) -> list[int]:
    """At most `count` of the numbers below `total`, evenly spaced, the first and the last among them."""
    return sorted({int(place) for place in np.linspace(0, max(total - 1, 0), min(total, count))})


def _json_table(file: Path) -> pa.Table:
    return _read_json(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read_json(file: Path, changed: int) -> pa.Table:
    """Rows that are one JSON object a line, or one list of objects, as `datasets` reads them.

    A value that is a number in one row and a text in another, which Arrow does not hold, is read as a text."""
    with suppress(pa.ArrowInvalid):
        return pj.read_json(file, pj.ReadOptions(block_size=JSON_BLOCK))
    text = file.read_text(encoding="utf-8-sig")
    try:
        whole = text.lstrip().startswith("[")
        found = json.loads(text) if whole else [json.loads(line) for line in text.splitlines() if line.strip()]
        names = dict.fromkeys(name for row in found for name in row)
        return pa.table({name: pa.array([_as_texts(row.get(name)) for row in found]) for name in names})
    except (ValueError, TypeError, AttributeError) as error:
        raise pa.ArrowInvalid(str(error)) from error


def _as_texts(value: Any) -> Any:
    """The same with every number as a text."""
    if isinstance(value, dict):
        return {name: _as_texts(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_as_texts(each) for each in value]
    return value if value is None or isinstance(value, str) else json.dumps(value)


def is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind))


def is_list(kind: pa.DataType) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
