"""Any data set by a mapping in yaml, without Python::

    sources:
      mine:
        from: columns
        path: problems.parquet        # or hub: OWNER/NAME; jsonl, csv and patterns too
        columns: {question: problem, answer: final, solution: worked, difficulty: level}
        answer_pattern: '####\\s*(.+)'  # optional: what of the answer column is the gold
        data_source: my/problems      # decides the reward

Only `question` is required. Numbers in text columns become text (145.0 is "145"); null, lists and objects are errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.schema import ITEM
from data_prep.sources import files
from data_prep.sources.source import BadRow, Opened, Row, Source, SourceSpec, items, option_problem

MAPPABLE = ("id", "question", "answer", "solution", "difficulty")


def as_text(value: Any, key: str) -> str | None:
    """A cell as text. Raises BadRow for what is no text or number."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(f"{key} is {type(value).__name__} ({str(value)[:60]}), not a text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRow(f"{key} is {value}, not a text or a number")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def as_number(value: Any, key: str) -> float | None:
    """A cell as a number, also from text such as "3" or "Level 5"."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value if value is None else float(value)
    found = re.search(r"-?\d+(?:\.\d+)?", value) if isinstance(value, str) else None
    if found is None:
        raise BadRow(f"{key} is {str(value)[:60]!r}, not a number")
    return float(found.group())


def _mapping(spec: SourceSpec) -> dict[str, str]:
    given = spec.options.get("columns")
    if not isinstance(given, Mapping) or "question" not in given:
        raise option_problem(
            spec.name,
            "columns",
            "does not say which column is the question",
            "write columns: {question: COLUMN, answer: COLUMN}",
        )
    unknown = sorted(set(given) - set(MAPPABLE))
    if unknown:
        raise option_problem(spec.name, "columns", f"maps {unknown}", f"map only {', '.join(MAPPABLE)}")
    for key, column in given.items():
        if not isinstance(column, str) or not column:
            raise option_problem(
                spec.name, f"columns.{key}", f"is {column!r}, not the name of a column", "write its name"
            )
    return dict(given)


def _pattern(spec: SourceSpec) -> re.Pattern[str] | None:
    try:
        pattern = re.compile(spec.options["answer_pattern"]) if spec.options.get("answer_pattern") else None
    except (re.error, TypeError) as error:
        raise option_problem(spec.name, "answer_pattern", f"is no regular expression ({error})", "correct it") from None
    if pattern is not None and pattern.groups != 1:
        raise option_problem(
            spec.name, "answer_pattern", f"has {pattern.groups} groups", "mark the gold with one (group)"
        )
    return pattern


def _item(row: Row, mapping: Mapping[str, str], pattern: re.Pattern[str] | None) -> Row:
    for key, column in mapping.items():
        if column not in row:
            raise BadRow(f"has no column {column!r} (for {key}); it has {', '.join(map(str, row)) or 'none'}")
    item: dict[str, Any] = {key: as_text(row[column], column) for key, column in mapping.items() if key != "difficulty"}
    if not (item["question"] or "").strip():
        raise BadRow(f"{mapping['question']} is empty, not a question")
    if "answer" in item and item["answer"] is None:
        raise BadRow(f"{mapping['answer']} is null, not an answer")
    if "difficulty" in mapping:
        item["difficulty"] = as_number(row[mapping["difficulty"]], mapping["difficulty"])
    if pattern is not None:
        found = pattern.search(item["answer"])
        item["answer"] = found.group(1).strip() if found else ""
    return {key: value for key, value in item.items() if value is not None}


def _arrow_items(spec: SourceSpec, mapping: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    """Parquet whose mapped columns are plain texts and numbers without nulls: no Python rows are made."""
    number = 0
    pattern = _pattern(spec)
    for path in files.paths(spec):
        for batch in files.parquet_batches(spec, path, sorted(set(mapping.values()))):
            if _is_plain(batch, mapping):
                yield _converted(spec, batch, mapping, number)
            else:
                yield from items(spec, batch.to_pylist(), lambda row: _item(row, mapping, pattern), first=number)
            number += batch.num_rows


def _is_plain(batch: pa.RecordBatch, mapping: Mapping[str, str]) -> bool:
    for key, column in mapping.items():
        kind = batch[column].type
        good = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) if key == "difficulty" else good):
            return False
        if batch[column].null_count or (
            key == "question" and pc.any(pc.equal(pc.binary_length(batch[column]), 0)).as_py()
        ):
            return False
    return True


def _converted(spec: SourceSpec, batch: pa.RecordBatch, mapping: Mapping[str, str], first: int) -> pa.RecordBatch:
    columns = {key: batch[column].cast(ITEM.field(key).type) for key, column in mapping.items()}
    if "id" not in columns:
        numbers = pa.array(np.arange(first, first + batch.num_rows)).cast(pa.string())
        columns["id"] = pc.binary_join_element_wise(f"{spec.name}/", numbers, "")
    if spec.options.get("answer_pattern"):
        named = re.sub(r"(?<!\\)\((?!\?)", "(?P<gold>", spec.options["answer_pattern"], count=1)
        gold = pc.extract_regex(columns["answer"], named)
        columns["answer"] = pc.utf8_trim_whitespace(pc.fill_null(pc.struct_field(gold, "gold"), ""))
    arrays = [columns.get(field.name, pa.nulls(batch.num_rows, field.type)) for field in ITEM]
    return pa.RecordBatch.from_arrays(arrays, schema=ITEM)


def _open(spec: SourceSpec) -> Opened:
    mapping, pattern = _mapping(spec), _pattern(spec)
    if pattern is not None and "answer" not in mapping:
        raise option_problem(spec.name, "answer_pattern", "has no answer column to read", "map answer: COLUMN too")
    origin = files.provenance(spec, spec.options.get("hub"), spec.options.get("revision"))
    if files.is_parquet(spec):
        return Opened(origin, _arrow_items(spec, mapping))
    if "path" in spec.options:
        raw = files.rows(spec)
    else:
        options = spec.options
        raw = files.hub_rows(
            spec, options["hub"], options.get("config"), options.get("split", "train"), origin["revision"]
        )
    return Opened(origin | {"columns": mapping}, items(spec, raw, lambda row: _item(row, mapping, pattern)))


SOURCE = Source(
    kind="columns",
    data_source="",
    ability="math",
    uses=("sft", "rl", "eval"),
    role="core",
    licence="the user's own",
    origin="columns of the user's choice",
    options=(*files.OPTIONS, "columns", "answer_pattern"),
    open=_open,
)
