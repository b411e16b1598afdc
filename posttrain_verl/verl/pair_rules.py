"""What is wrong with pairs of answers: no answer or several, the same one twice, and pairs that length tells apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from posttrain_verl.verl.row_terms import RowRule

Mask = np.ndarray[Any, np.dtype[np.bool_]]
ASSISTANT = "assistant"
TOLD_BY_LENGTH = 0.9  # of the pairs: a model may learn lengths where one side is nearly always the longer one


def pair_rules(prompt: str, chosen: str, rejected: str) -> tuple[RowRule, ...]:
    """The rules of rows with these columns."""
    drop = "drop these pairs, or repair them"
    of_answers = [
        RowRule((column,), partial(is_not_one_answer, column=column), f"{column} is not one turn of the {ASSISTANT}",
                f"{column} is the answer alone, without the turns of {prompt}", blocks=True)
        for column in (chosen, rejected)
    ]  # fmt: skip
    both = (chosen, rejected)
    told_apart = [
        RowRule(both, partial(compare_lengths, one=longer, other=shorter), f"{longer} is longer than {shorter}",
                "length alone tells such pairs apart: match the lengths, or take preference.loss=sigmoid_norm",
                tolerated=TOLD_BY_LENGTH)
        for longer, shorter in (both, both[::-1])
    ]  # fmt: skip
    return (
        RowRule((prompt,), partial(ends_with_answer, column=prompt), f"{prompt} ends with a turn of the {ASSISTANT}",
                f"{prompt} ends with the question: the answers follow it", blocks=True),
        *of_answers,
        RowRule(both, partial(are_equal, one=chosen, other=rejected), f"{chosen} and {rejected} are the same", drop),
        *told_apart,
    )  # fmt: skip


def is_not_one_answer(rows: pa.RecordBatch, column: str) -> Mask:
    """Whether a list of turns is not one turn of the assistant. A text is one; a null is reported elsewhere."""
    cells = rows.column(column)
    if not _is_list(cells):
        return np.zeros(len(cells), dtype=bool)
    lengths = pc.fill_null(pc.list_value_length(cells), 1).to_numpy(zero_copy_only=False)
    wrong: Mask = lengths != 1
    roles = pc.struct_field(pc.list_flatten(cells), "role").cast(pa.large_string())
    others = pc.fill_null(pc.not_equal(roles, ASSISTANT), False).to_numpy(zero_copy_only=False)
    wrong[_parents(cells)[others]] = True
    return wrong


def ends_with_answer(rows: pa.RecordBatch, column: str) -> Mask:
    """Whether the last turn is the assistant's."""
    cells = rows.column(column)
    found = np.zeros(len(cells), dtype=bool)
    roles = pc.struct_field(pc.list_flatten(cells), "role").cast(pa.large_string())
    answers = pc.fill_null(pc.equal(roles, ASSISTANT), False).to_numpy(zero_copy_only=False)
    parents = _parents(cells)
    last = np.append(parents[1:] != parents[:-1], True)[: len(parents)]
    found[parents[last & answers]] = True
    return found


def are_equal(rows: pa.RecordBatch, one: str, other: str) -> Mask:
    """Whether both sides say the same."""
    return _compare_texts(rows, one, other, pc.equal)


def compare_lengths(rows: pa.RecordBatch, one: str, other: str) -> Mask:
    """Whether the first side has more characters."""
    return _compare_texts(
        rows, one, other, lambda first, second: pc.greater(pc.utf8_length(first), pc.utf8_length(second))
    )


def _compare_texts(rows: pa.RecordBatch, one: str, other: str, compare: Callable[[Any, Any], Any]) -> Mask:
    """Compare the texts of two columns; false where a side is not one text."""
    first, second = (_texts(rows.column(column)) for column in (one, other))
    if first is None or second is None:
        return np.zeros(rows.num_rows, dtype=bool)
    return np.asarray(pc.fill_null(compare(first, second), False).to_numpy(zero_copy_only=False))


def _texts(cells: pa.Array) -> pa.Array | None:
    """The text of each cell, null where it is not one turn; None where contents are not texts."""
    if not _is_list(cells):
        return cells.cast(pa.large_string())
    contents = pc.struct_field(pc.list_flatten(cells), "content")
    if not (types.is_string(contents.type) or types.is_large_string(contents.type)):
        return None
    lengths = pc.fill_null(pc.list_value_length(cells), 0).to_numpy(zero_copy_only=False)
    starts = np.cumsum(lengths) - lengths
    places = pa.array(np.where(lengths == 1, starts, -1), mask=lengths != 1)
    return contents.cast(pa.large_string()).take(places)


def _is_list(cells: pa.Array) -> bool:
    return bool(types.is_list(cells.type) or types.is_large_list(cells.type))


def _parents(cells: pa.Array) -> Any:
    return pc.list_parent_indices(cells).to_numpy(zero_copy_only=False)
