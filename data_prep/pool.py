"""The pool of items: texts on disk, and in memory only the numbers that choosing rows needs.

That is some 50 bytes a row, so the peak memory of a build hardly depends on how many rows there are.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.filters import REASONS
from data_prep.schema import ITEM, QUESTION

DETAILS_KEPT = 1000  # dropped rows of one reason and source whose details are kept
COLUMNS = {
    "source": np.int16,  # number of the source in the mix
    "key": np.uint64,  # hash of the question
    "identity": np.uint64,  # hash of what makes the row the same as another one
    "gold": np.uint64,  # hash of the gold
    "difficulty": np.float64,  # NaN where unknown
    "asked": np.int32,  # tokens of the prompt
    "solved": np.int32,  # tokens of the solution
    "has_answer": np.bool_,
    "has_solution": np.bool_,
    "has_rejected": np.bool_,
    "reason": np.int16,  # why a part of the row is spoiled (index into REASONS), 0 for a good one
    "spoiled": np.uint8,  # the spoiled parts, as bits of schema.PARTS; no split can use a row whose question is
}


class Pool:
    """Append batches while reading sources, then `close`; afterwards each of COLUMNS is an array, one entry a row."""

    source: np.ndarray
    key: np.ndarray
    identity: np.ndarray
    gold: np.ndarray
    difficulty: np.ndarray
    asked: np.ndarray
    solved: np.ndarray
    has_answer: np.ndarray
    has_solution: np.ndarray
    has_rejected: np.ndarray
    reason: np.ndarray
    spoiled: np.ndarray

    def __init__(self, path: Path):
        self.path = path
        self.details: dict[int, str] = {}
        self._kept = Counter[tuple[int, str]]()
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
        self._writer = pa.ipc.new_file(str(path), ITEM)
        self._rows = 0

    def append(self, items: pa.RecordBatch, columns: dict[str, np.ndarray], details: dict[int, str]) -> None:
        """Add a batch of items with its COLUMNS; `details` says more about dropped rows of the batch."""
        for name, values in columns.items():
            self._parts[name].append(values.astype(COLUMNS[name], copy=False))
        for row, detail in details.items():
            self._keep(self._rows + row, int(columns["source"][row]), REASONS[columns["reason"][row]], detail)
        self._writer.write_batch(items)
        self._rows += items.num_rows

    def close(self) -> None:
        """Finish writing; the columns become attributes."""
        self._writer.close()
        for name, kind in COLUMNS.items():
            setattr(self, name, np.concatenate([np.empty(0, dtype=kind), *self._parts[name]]))
            self._parts[name].clear()

    def mark(self, rows: np.ndarray, reason: str, detail: str) -> None:
        """Drop rows of the closed pool."""
        self.reason[rows] = REASONS.index(reason)
        self.spoiled[rows] |= QUESTION
        for row in rows[:DETAILS_KEPT].tolist():
            self._keep(row, int(self.source[row]), reason, detail)

    def restore(self, rows: np.ndarray) -> None:
        """Take back every mark on the rows of a boolean mask."""
        self.reason[rows] = 0
        self.spoiled[rows] = 0
        self.details = {row: detail for row, detail in self.details.items() if self.reason[row]}

    def _keep(self, row: int, source: int, reason: str, detail: str) -> None:
        if self._kept[source, reason] < DETAILS_KEPT:
            self._kept[source, reason] += 1
            self.details[row] = detail

    @property
    def good(self) -> np.ndarray:
        """The rows that some split of their source can use."""
        return self.spoiled & QUESTION == 0

    def count_drops(self, source: int, parts: int = 0) -> dict[str, int]:
        """How many rows of a source are dropped, by reason: from every split, or only from those that use some of `parts`."""
        lost = self.good & (self.spoiled & parts != 0) if parts else ~self.good
        counts = np.bincount(self.reason[lost & (self.source == source)], minlength=len(REASONS))
        return {reason: int(count) for reason, count in zip(REASONS, counts, strict=True) if reason and count}

    def __len__(self) -> int:
        return self._rows

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(number of the first row, batch) in the order of appending."""
        first = 0
        with pa.OSFile(str(self.path)) as stream:
            reader = pa.ipc.open_file(stream)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                yield first, batch
                first += batch.num_rows
