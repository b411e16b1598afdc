"""The pool of usable items: texts on disk, and in memory only the numbers that choosing rows needs.

That is 38 bytes a row, so the peak memory of a build hardly depends on how many rows there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.schema import ITEM


class Pool:
    """Append batches while reading sources, then `close`; afterwards the columns are numpy arrays of one length.

    `source` (which one, in mix order), `key` (hash of the question), `difficulty` (NaN where unknown), `tokens`
    (prompt and solution), `has_answer`, `has_solution`."""

    def __init__(self, path: Path):
        self.path = path
        self._columns: dict[str, list[np.ndarray]] = {
            name: [] for name in ("source", "key", "difficulty", "tokens", "has_answer", "has_solution")
        }
        self._writer = pa.ipc.new_file(str(path), ITEM)
        self._written = 0

    def append(self, source: int, items: pa.RecordBatch, keys: np.ndarray, tokens: np.ndarray) -> None:
        """Add usable items of one source with the hashes of their questions and their lengths in tokens."""
        values = {
            "source": np.full(items.num_rows, source, dtype=np.int16),
            "key": keys,
            "difficulty": items["difficulty"].fill_null(float("nan")).to_numpy(zero_copy_only=False),
            "tokens": tokens.astype(np.int32),
            "has_answer": items["answer"].is_valid().to_numpy(zero_copy_only=False),
            "has_solution": items["solution"].is_valid().to_numpy(zero_copy_only=False),
        }
        for name, column in values.items():
            self._columns[name].append(column)
        self._writer.write_batch(items)
        self._written += items.num_rows

    def close(self) -> None:
        """Finish writing; the columns become attributes."""
        self._writer.close()
        empty = {"source": np.int16, "key": np.uint64, "difficulty": np.float64, "tokens": np.int32}
        for name, parts in self._columns.items():
            setattr(self, name, np.concatenate(parts) if parts else np.empty(0, dtype=empty.get(name, bool)))
            parts.clear()

    def __len__(self) -> int:
        return self._written

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(number of the first row, batch) in the order of appending."""
        first = 0
        with pa.OSFile(str(self.path)) as stream:
            reader = pa.ipc.open_file(stream)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                yield first, batch
                first += batch.num_rows
