"""Parquet out: rows in their chosen order, in bounded memory, with the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import render, schema
from data_prep.filters import REASONS
from data_prep.mix import Mix, SplitSpec
from data_prep.pool import Pool
from data_prep.splits import Selection

DROPPED = "dropped.parquet"
BUCKET_ROWS = 65_536  # most rows sorted in memory at a time, and the size of a Parquet row group
BUCKET_BYTES = 2**25  # and about the most bytes: long reasoning makes smaller buckets


def write_split(path: Path, mix: Mix, split: SplitSpec, selection: Selection, pool: Pool) -> None:
    """Write one split. Items are first dealt into buckets by their place in the file, then each bucket is sorted."""
    place = np.full(len(pool), -1, dtype=np.int64)
    place[selection.rows] = np.arange(len(selection.rows))
    size = _bucket_rows_for(pool)
    buckets = _deal(path.with_suffix(".buckets"), pool, place, len(selection.rows), size)
    target = schema.of_split(split.name)
    with pq.ParquetWriter(str(path), target, compression="zstd", version="2.6", store_schema=False) as writer:
        for bucket in buckets:
            table = pa.ipc.open_file(str(bucket)).read_all()
            if table.num_rows:
                writer.write_table(_bucket_rows(table, mix, split, selection, pool), row_group_size=size)
            bucket.unlink()


def write_dropped(path: Path, mix: Mix, pool: Pool) -> None:
    """Keep dropped rows aside to be read, with reason and detail: up to 1000 of each reason and source."""
    names = list(mix.sources)
    fields = [("source", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
    target = pa.schema([*fields, *(pa.field(field.name, field.type) for field in schema.ITEM)])
    kept = np.array(sorted(pool.details), dtype=np.int64)
    with pq.ParquetWriter(str(path), target, compression="zstd", version="2.6", store_schema=False) as writer:
        for first, batch in pool.batches():
            rows = kept[(kept >= first) & (kept < first + batch.num_rows)]
            why = [(names[pool.source[row]], REASONS[pool.reason[row]], pool.details[row]) for row in rows.tolist()]
            said = [pa.array([each[n] for each in why], pa.string()) for n in range(3)]
            writer.write_batch(
                pa.RecordBatch.from_arrays([*said, *batch.take(pa.array(rows - first)).columns], schema=target)
            )


def _bucket_rows_for(pool: Pool) -> int:
    mean_bytes = pool.path.stat().st_size // max(1, len(pool)) + 1
    return min(BUCKET_ROWS, max(1024, BUCKET_BYTES // mean_bytes))


def _deal(stem: Path, pool: Pool, place: np.ndarray, rows: int, size: int) -> list[Path]:
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
    stage_names = pa.array([stage.name or None for stage in split.stages], pa.string())
    parts, part_places = [], []
    for number in np.unique(source_of):
        spec = mix.sources[list(mix.sources)[number]]
        mine = np.flatnonzero(source_of == number)
        part_places.append(places[mine])
        parts.append(
            render.rows(
                items.take(pa.array(mine)),
                split=split.name,
                prompt=mix.prompt_for(spec.ability),
                data_source=spec.data_source,
                ability=spec.ability,
                source=spec.name,
                index=places[mine],
                stages=stage_names.take(pa.array(selection.stages[places[mine]])),
            )
        )
    return pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(part_places))))
