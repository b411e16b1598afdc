"""From items to the rows VeRL reads: messages are made here and nowhere else, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import schema
from data_prep.mix import PromptSpec

_MARKED_LINE = r"\n?[ \t]*####[^\n]*\s*$"
_ENDINGS = {
    "hashes": ("\n#### ", ""),
    "boxed": ("\nThe answer is $\\boxed{", "}$."),
    "code": ("", ""),
    "plain": ("", ""),
}


def user_messages(questions: pa.Array, prompt: PromptSpec) -> pa.Array:
    """The user's message for each question."""
    before, after = prompt.user.split("{question}")
    return pc.binary_join_element_wise(before, questions, after, "")


def final_solutions(solutions: pa.Array, answers: pa.Array, prompt: PromptSpec) -> pa.Array:
    """Worked solutions ending in the answer format that the mix asks the model for.

    A trailing `#### x` line of the source is replaced. A solution that already boxes its answer is left alone where
    the format is `boxed`; formats `code` and `plain` leave every solution as it is."""
    if prompt.answer in ("code", "plain"):
        return solutions
    body = pc.replace_substring_regex(solutions, _MARKED_LINE, "")
    before, after = _ENDINGS[prompt.answer]
    ended = pc.binary_join_element_wise(body, before, answers, after, "")
    if prompt.answer == "boxed":
        return pc.if_else(pc.match_substring(solutions, "\\boxed"), solutions, ended)
    return ended


def messages(turns: Sequence[tuple[str, pa.Array]], rows: int) -> pa.Array:
    """`schema.MESSAGES` from one column a turn, all of length `rows`."""
    columns = [column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column for _, column in turns]
    interleaved = np.arange(len(turns) * rows).reshape(len(turns), rows).T.ravel()
    content = pa.concat_arrays([column.cast(pa.string()) for column in columns]).take(pa.array(interleaved))
    roles = pa.array([role for role, _ in turns]).take(pa.array(np.tile(np.arange(len(turns)), rows)))
    structs = pa.StructArray.from_arrays([roles, content], fields=list(schema.MESSAGES.value_type))
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * len(turns)), structs)


def _constant(value: str | None, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), rows)


def rows(
    items: pa.Table | pa.RecordBatch,
    *,
    split: str,
    prompt: PromptSpec,
    data_source: str,
    ability: str,
    source: str,
    index: np.ndarray,
    stages: pa.Array,
) -> pa.Table:
    """Items of one source as rows of one split. `index` is each row's place in the split's file."""
    count = items.num_rows
    turns = [("system", _constant(prompt.system, count))] if prompt.system else []
    turns.append(("user", user_messages(items["question"], prompt)))
    extra = pa.StructArray.from_arrays(
        [
            _constant(split, count),
            pa.array(index, pa.int64()),
            _flat(items["id"]),
            _constant(source, count),
            _flat(items["difficulty"]),
            stages,
        ],
        fields=list(schema.EXTRA_INFO),
    )
    if schema.is_sft(split):
        turns.append(("assistant", final_solutions(items["solution"], items["answer"], prompt)))
        columns = [_constant(data_source, count), messages(turns, count), _constant(ability, count), extra]
        return pa.Table.from_arrays(columns, schema=schema.SFT)
    gold = pa.StructArray.from_arrays(
        [_constant("rule", count), _flat(items["answer"])], fields=list(schema.RL.field("reward_model").type)
    )
    columns = [_constant(data_source, count), messages(turns, count), _constant(ability, count), gold, extra]
    return pa.Table.from_arrays(columns, schema=schema.RL)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
