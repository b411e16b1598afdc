"""From items to the rows that VeRL reads, and from rows to Parquet.

Messages are made only here. Rows are written in their chosen order, in bounded memory, with the same bytes every time.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep import schema
from data_prep.answer_marks import ENDINGS, MARKS
from data_prep.filters import REASONS
from data_prep.mix import Mix, PromptSpec, SplitSpec
from data_prep.pool import Pool
from data_prep.sources import SourceSpec
from data_prep.splits import Selection

_MARKED_LINE = r"\n?[ \t]*####[^\n]*\s*$"
# A gold that brings its own mark along, or the whole solution: only the answer is written behind the mark of the ending.
_MARKED_GOLDS = (
    (r"(?s)^.*####\s*", ""),
    (r"^\s*\$?\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}\$?\s*$", r"\1"),
    (r"^\s*<answer>(.*)</answer>\s*$", r"\1"),
)
DROPPED = "dropped.parquet"
BUCKET_ROWS = 65_536  # most rows sorted in memory at a time, and the size of a Parquet row group
BUCKET_BYTES = 2**25  # and about the most bytes: long reasoning makes smaller buckets


def user_messages(questions: pa.Array, prompt: PromptSpec) -> pa.Array:
    before, after = prompt.user.split("{question}")
    return pc.binary_join_element_wise(before, questions, after, "")


def final_solutions(solutions: pa.Array, answers: pa.Array, prompt: PromptSpec) -> pa.Array:
    """Worked solutions ending in the answer format that the mix asks the model for.

    A trailing `#### x` line of the source is replaced. Left alone are a solution without a gold, one that ends as asked by its
    own box or tag, and every solution where the format is `code` or `plain`."""
    if prompt.answer not in ENDINGS:
        return solutions
    before, after = ENDINGS[prompt.answer]
    golds = pc.fill_null(answers, "")
    for marked, bare in _MARKED_GOLDS:
        golds = pc.replace_substring_regex(golds, marked, bare)
    body = pc.replace_substring_regex(solutions, _MARKED_LINE, "")
    ended = pc.binary_join_element_wise(body, before, golds, after, "")
    as_it_is = pc.invert(pc.match_substring_regex(golds, r"\S"))
    if prompt.answer != "hashes":
        marked_line = pc.match_substring_regex(solutions, _MARKED_LINE)
        asked_for = pc.match_substring(solutions, MARKS[prompt.answer])
        as_it_is = pc.or_(as_it_is, pc.and_not(asked_for, marked_line))
    return pc.if_else(as_it_is, solutions, ended)


def build_messages(turns: Sequence[tuple[str, pa.Array]], rows: int) -> pa.Array:
    """`schema.MESSAGES` from one column a turn, all of length `rows`."""
    interleaved = np.arange(len(turns) * rows).reshape(len(turns), rows).T.ravel()
    content = pa.concat_arrays([column.cast(pa.string()) for _, column in turns]).take(pa.array(interleaved))
    roles = pa.array([role for role, _ in turns]).take(pa.array(np.tile(np.arange(len(turns)), rows)))
    structs = pa.StructArray.from_arrays([roles, content], fields=list(schema.MESSAGES.value_type))
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * len(turns)), structs)


def build_rows(
    items: pa.Table, split: str, prompt: PromptSpec, spec: SourceSpec, index: np.ndarray, stages: pa.Array
) -> pa.Table:
    """Items of one source as rows of one split. `index` is each row's place in the split's file."""

    def constant(value: str) -> pa.Array:
        return pa.repeat(pa.scalar(value, pa.string()), items.num_rows)

    item = {name: items[name].combine_chunks() for name in items.column_names}
    kind = schema.row_kind(split)
    says = {
        "system": lambda: constant(prompt.system or ""),
        "question": lambda: user_messages(item["question"], prompt),
        # Both sides of a pair stay as they are, so that their endings do not tell them apart.
        "solution": lambda: pc.if_else(
            item["rejected"].is_valid(), item["solution"], final_solutions(item["solution"], item["answer"], prompt)
        ),
        "answer": lambda: item["answer"],
        "rejected": lambda: item["rejected"],
    }
    columns = {"data_source": constant(spec.data_source), "ability": constant(spec.ability)}
    for name, turns in kind.turns.items():
        said = [(role, says[text]()) for role, text in turns if text != "system" or prompt.system]
        columns[name] = build_messages(said, items.num_rows)
    parts = {
        "extra_info": [constant(split), pa.array(index, pa.int64()), item["id"], constant(spec.name),
                       item["difficulty"], stages, pa.repeat(pa.scalar(prompt.mark, pa.string()), items.num_rows)],
        "reward_model": [constant("rule"), item["answer"]],
    }  # fmt: skip
    target = kind.schema
    for name in parts.keys() & set(target.names):
        columns[name] = pa.StructArray.from_arrays(parts[name], fields=list(target.field(name).type))
    return pa.Table.from_arrays([columns[name] for name in target.names], schema=target)


def write_split(path: Path, mix: Mix, split: SplitSpec, selection: Selection, pool: Pool) -> None:
    """Write one split. Items are first dealt into buckets by their place in the file, then each bucket is sorted."""
    place = np.full(len(pool), -1, dtype=np.int64)
    place[selection.rows] = np.arange(len(selection.rows))
    mean_bytes = pool.path.stat().st_size // max(1, len(pool)) + 1
    size = min(BUCKET_ROWS, max(1024, BUCKET_BYTES // mean_bytes))
    buckets = _deal_buckets(path.with_suffix(".buckets"), pool, place, len(selection.rows), size)
    target = schema.row_kind(split.name).schema
    with pq.ParquetWriter(str(path), target, compression="zstd", version="2.6", store_schema=False) as writer:
        for bucket in buckets:
            table = pa.ipc.open_file(str(bucket)).read_all()
            if table.num_rows:
                writer.write_table(_bucket_rows(table, mix, split, selection, pool), row_group_size=size)
            bucket.unlink()


def write_dropped(path: Path, mix: Mix, pool: Pool) -> None:
    """Keep dropped rows aside to be read, with reason, detail and the kinds of rows that lost them (`rl, sft`): up to 1000 of
    each reason and source."""
    names = list(mix.sources)
    uses = [mix.uses_of(name).kinds.items() for name in names]
    fields = [(name, pa.string()) for name in ("source", "reason", "detail", "dropped_from")]
    target = pa.schema([*fields, *(pa.field(field.name, field.type) for field in schema.ITEM)])
    kept = np.array(sorted(pool.details), dtype=np.int64)
    with pq.ParquetWriter(str(path), target, compression="zstd", version="2.6", store_schema=False) as writer:
        for first, batch in pool.batches():
            rows = kept[(kept >= first) & (kept < first + batch.num_rows)]
            why = []
            for row in rows.tolist():
                source = pool.source[row]
                lost = [kind for kind, parts in uses[source] if pool.spoiled[row] & (parts | schema.QUESTION)]
                why.append((names[source], REASONS[pool.reason[row]], pool.details[row], ", ".join(lost)))
            said = [pa.array([each[n] for each in why], pa.string()) for n in range(4)]
            items = batch.take(pa.array(rows - first)).columns
            writer.write_batch(pa.RecordBatch.from_arrays([*said, *items], schema=target))


def _deal_buckets(stem: Path, pool: Pool, place: np.ndarray, rows: int, size: int) -> list[Path]:
    """Copy the chosen items, each with its place, into one Arrow file per `size` places."""
    fields = schema.ITEM.append(pa.field("place", pa.int64()))
    paths = [Path(f"{stem}{number}") for number in range(max(1, -(-rows // size)))]
    writers = [pa.ipc.new_file(str(path), fields) for path in paths]
    for first, batch in pool.batches():
        places = place[first : first + batch.num_rows]
        wide = pa.RecordBatch.from_arrays([*batch.columns, pa.array(places)], schema=fields)
        bucket_of = np.where(places < 0, -1, places // size)
        for number in np.unique(bucket_of[bucket_of >= 0]):
            writers[number].write_batch(wide.take(pa.array(np.flatnonzero(bucket_of == number))))
    for writer in writers:
        writer.close()
    return paths


def _bucket_rows(items: pa.Table, mix: Mix, split: SplitSpec, selection: Selection, pool: Pool) -> pa.Table:
    """The bucket's rows in the order of their places. Each source has its own prompt, so they are made by source."""
    places = items["place"].to_numpy()
    source_of = pool.source[selection.rows[places]]
    # Pass rates may have replaced the difficulty that the source gives.
    difficulty = pa.array(pool.difficulty[selection.rows[places]], pa.float64(), from_pandas=True)
    items = items.set_column(items.schema.get_field_index("difficulty"), "difficulty", difficulty)
    stage_names = pa.array([stage.name or None for stage in split.curriculum], pa.string())
    parts, part_places = [], []
    for number in np.unique(source_of):
        spec = mix.sources[list(mix.sources)[number]]
        mine = np.flatnonzero(source_of == number)
        part_places.append(places[mine])
        stages = stage_names.take(pa.array(selection.stages[places[mine]]))
        prompt = mix.prompt_for(spec.ability)
        parts.append(build_rows(items.take(pa.array(mine)), split.name, prompt, spec, places[mine], stages))
    return pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(part_places))))
