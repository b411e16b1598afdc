"""Any data set by a mapping in yaml, without Python::

    sources:
      mine:
        from: columns
        path: problems.parquet        # or hub: OWNER/NAME; jsonl, csv and patterns too
        columns: {question: problem, answer: final, solution: worked, difficulty: level}
        answer_pattern: '####\\s*(.+)'  # optional: what of the answer column is the gold
        data_source: my/problems      # decides the reward

Only `question` is required. Numbers in text columns become text (145.0 is "145"); null, lists and objects are errors. A field of
a struct is a column, too: `answer: reward_model.ground_truth`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, BeforeValidator, Field

from data_prep.declaration import Found, must, one_of, wrong
from data_prep.schema import ITEM
from data_prep.sources import files
from data_prep.sources.files import FileSpec
from data_prep.sources.source import BadRow, Opened, Row, Source, as_number, as_text, convert_rows

MAPPABLE = ("id", "question", "answer", "solution", "rejected", "difficulty")


_NAMED = must(lambda name: isinstance(name, str) and name, "write its name", "is {value!r}, not the name of a column")
_ONE_GROUP = must(lambda pattern: pattern.groups == 1, "mark the gold with one (group)", "has {value.groups} groups")
Mappable = Annotated[str, AfterValidator(one_of(MAPPABLE))]
Column = Annotated[str, BeforeValidator(_NAMED)]


class ColumnsSpec(FileSpec):
    """`columns` maps what an item has to the columns of the set; `answer_pattern` finds the gold in the answer column."""

    hub: str | None = None
    columns: dict[Mappable, Column] = Field(description="write columns: {question: COLUMN, answer: COLUMN}")
    answer_pattern: Annotated[re.Pattern[str], AfterValidator(_ONE_GROUP)] | None = None

    @classmethod
    def contradictions(cls, given: Mapping[Any, Any]) -> Iterator[Found]:
        columns = given.get("columns")
        if isinstance(columns, Mapping) and "question" not in columns:
            remedy = "write columns: {question: COLUMN, answer: COLUMN}"
            yield ("columns",), wrong("does not say which column is the question", remedy)
        if isinstance(columns, Mapping) and "answer" not in columns and given.get("answer_pattern") is not None:
            yield ("answer_pattern",), wrong("has no answer column to read", "map answer: COLUMN too")


def _mapped_item(row: Row, spec: ColumnsSpec) -> Row:
    mapping = spec.columns
    cells = {key: _find_cell(row, column, key) for key, column in mapping.items()}
    item: dict[str, Any] = {key: as_text(cell, mapping[key]) for key, cell in cells.items() if key != "difficulty"}
    if not (item["question"] or "").strip():
        raise BadRow(f"{mapping['question']} is empty, not a question")
    if "answer" in item and item["answer"] is None:
        raise BadRow(f"{mapping['answer']} is null, not an answer")
    if "difficulty" in mapping:
        item["difficulty"] = as_number(cells["difficulty"], mapping["difficulty"])
    if spec.answer_pattern is not None:
        found = spec.answer_pattern.search(item["answer"])
        item["answer"] = found.group(1).strip() if found else ""
    return {key: value for key, value in item.items() if value is not None}


def _find_cell(row: Row, column: str, key: str) -> Any:
    """The cell of a column; `reward_model.ground_truth` is a field of a struct, unless a column has that very name."""
    if column in row:
        return row[column]
    cell: Any = row
    for name in column.split("."):
        if not isinstance(cell, Mapping) or name not in cell:
            raise BadRow(f"has no column {column!r} (for {key}); it has {', '.join(map(str, row)) or 'none'}")
        cell = cell[name]
    return cell


def _find_array(batch: pa.RecordBatch, column: str) -> pa.Array | None:
    """The same for all rows of a batch; None where a field is missing."""
    cells = batch[files.outer_column(column, batch.schema.names)]
    for name in [] if column in batch.schema.names else column.split(".")[1:]:
        if not pa.types.is_struct(cells.type) or cells.type.get_field_index(name) < 0:
            return None
        cells = pc.struct_field(cells, name)
    return cells


def _arrow_items(spec: ColumnsSpec) -> Iterator[pa.RecordBatch]:
    """Parquet whose mapped columns are plain texts and numbers without nulls: no Python rows are made."""
    number = 0
    for path in files.local_files(spec):
        for batch in files.parquet_batches(spec, path, sorted(set(spec.columns.values()))):
            if _is_plain(batch, spec.columns):
                yield _convert_batch(spec, batch, number)
            else:
                yield from convert_rows(spec, batch.to_pylist(), lambda row: _mapped_item(row, spec), first=number)
            number += batch.num_rows


def _is_plain(batch: pa.RecordBatch, mapping: Mapping[str, str]) -> bool:
    for key, column in mapping.items():
        if (cells := _find_array(batch, column)) is None:
            return False
        kind = cells.type
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
        if cells.null_count or not (number if key == "difficulty" else text):
            return False
        if key == "question" and pc.any(pc.equal(pc.binary_length(cells), 0)).as_py():
            return False
    return True


def _convert_batch(spec: ColumnsSpec, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    arrays = {key: _find_array(batch, column) for key, column in spec.columns.items()}
    columns = {key: cells.cast(ITEM.field(key).type) for key, cells in arrays.items() if cells is not None}
    if "id" not in columns:
        numbers = pa.array(np.arange(first, first + batch.num_rows)).cast(pa.string())
        columns["id"] = pc.binary_join_element_wise(f"{spec.name}/", numbers, "")
    if spec.answer_pattern is not None:
        named = re.sub(r"(?<!\\)\((?!\?)", "(?P<gold>", spec.answer_pattern.pattern, count=1)
        gold = pc.extract_regex(columns["answer"], named)
        columns["answer"] = pc.utf8_trim_whitespace(pc.fill_null(pc.struct_field(gold, "gold"), ""))
    made = [columns.get(field.name, pa.nulls(batch.num_rows, field.type)) for field in ITEM]
    return pa.RecordBatch.from_arrays(made, schema=ITEM)


def _open_columns(spec: ColumnsSpec) -> Opened:
    origin, rows = files.opened(spec, spec.hub, spec.config, spec.split or "train", spec.revision)
    if files.is_parquet(spec):
        return Opened(origin, _arrow_items(spec))
    return Opened(origin | {"columns": spec.columns}, convert_rows(spec, rows, lambda row: _mapped_item(row, spec)))


COLUMNS = Source(
    kind="columns",
    data_source="",
    licence="the user's own",
    origin="columns of the user's choice",
    open=_open_columns,
    spec=ColumnsSpec,
)
