"""Overlap of training rows with evaluation sets: shared word n-grams, normalised (lower case, letters and digits)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.fingerprint import LOOSE, words

TEXTS = ("question", "solution")
EXAMPLES = 20  # overlapping spans kept for each evaluation set
_WHOLE_LEAST = 5  # words that a short question needs before being equal to another one means anything
_BITS = 22
_MASK = np.uint64(2**_BITS - 1)
_TOKEN = re.compile(rb"[0-9a-z\x80-\xff]+")  # what `words(..., LOOSE)` counts as a word


@dataclass
class EvalSet:
    """The n-grams of one evaluation set's questions and solutions, and what was found against it."""

    name: str
    grams: dict[int, np.ndarray]
    whole: np.ndarray
    rows: dict[str, int] = field(default_factory=dict)
    dropped: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """The manifest's entry: training rows by overlap, how many were dropped and left in, and spans to read."""
        left = max(self.rows.values(), default=0) - self.dropped
        return {"rows_by_overlap": self.rows, "dropped": self.dropped, "left_in": left, "examples": self.examples}


def index(name: str, batches: Iterable[pa.RecordBatch], sizes: Sequence[int]) -> EvalSet:
    """Read an evaluation set once."""
    grams: dict[int, list[np.ndarray]] = {n: [] for n in sizes}
    whole = []
    for batch in batches:
        for column in TEXTS:
            split = words(batch[column], LOOSE)
            for n in sizes:
                grams[n].append(split.ngrams(n)[0])
        split = words(batch["question"], LOOSE)
        whole.append(split.rows[np.diff(split.offsets) >= _WHOLE_LEAST])
    return EvalSet(name, {n: _unique(parts) for n, parts in grams.items()}, _unique(whole))


def _among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which values occur in the sorted array `known`."""
    if not len(known):
        return np.zeros(len(values), dtype=bool)
    return known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values


def _unique(parts: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *parts]))


@dataclass(frozen=True)
class Overlaps:
    """For each evaluation set the longest n-gram that each row of a batch shares with it (0: none), and, by set and
    row, where in the row the span stands: column, first word, number of words."""

    longest: dict[str, np.ndarray]
    spans: dict[tuple[str, int], tuple[str, int, int]]


class Detector:
    """Checks batches against evaluation sets. `drop` is the length of n-gram from which on a row is dropped (None:
    overlaps are reported and left in); a question that is wholly that of an evaluation row counts as the longest."""

    def __init__(self, sets: Sequence[EvalSet], sizes: Sequence[int], drop: int | None):
        self.sets, self.sizes, self.drop = sets, sorted(sizes), drop
        # One bit for each n-gram of any set: nearly all training n-grams are ruled out by a single look-up.
        self._maybe = {n: np.zeros(2**_BITS, dtype=bool) for n in self.sizes}
        for each in sets:
            for n in self.sizes:
                self._maybe[n][each.grams[n] & _MASK] = True

    def check(self, batch: pa.RecordBatch) -> Overlaps:
        """What a batch shares with the sets. Changes nothing: batches may be checked in any order, in threads."""
        found = Overlaps({each.name: np.zeros(batch.num_rows, dtype=np.int64) for each in self.sets}, {})
        split = {column: words(batch[column], LOOSE) for column in TEXTS} if self.sets else {}
        for n in self.sizes:
            for column, text in split.items():
                hashes, starts = text.ngrams(n)
                hits = np.flatnonzero(self._maybe[n][hashes & _MASK])
                for each in self.sets:
                    sure = starts[hits[_among(hashes[hits], each.grams[n])]]
                    rows = np.searchsorted(text.offsets, sure, side="right") - 1
                    found.longest[each.name][rows] = n
                    for row, start in zip(rows.tolist(), (sure - text.offsets[rows]).tolist(), strict=True):
                        found.spans[each.name, row] = (column, start, n)
        for each in self.sets:
            same = np.flatnonzero(_among(split["question"].rows, each.whole))
            found.longest[each.name][same] = max(self.sizes)
            found.spans.update({(each.name, row): ("question", 0, 10**6) for row in same.tolist()})
        return found

    def record(self, batch: pa.RecordBatch, found: Overlaps) -> dict[int, str]:
        """Count what `check` found, in the order of the rows; returns the rows to drop, each with the shared span."""
        longest, spans = found.longest, found.spans
        drops: dict[int, str] = {}
        for each in self.sets:
            for n in self.sizes:
                count = int((longest[each.name] >= n).sum())
                each.rows[f"{n} words"] = each.rows.get(f"{n} words", 0) + count
            for row in np.flatnonzero(longest[each.name]).tolist():
                dropped = self.drop is not None and bool(longest[each.name][row] >= self.drop)
                each.dropped += dropped
                if not dropped and len(each.examples) >= EXAMPLES:
                    continue
                span = _span(batch, row, *spans[each.name, row])
                if len(each.examples) < EXAMPLES:
                    each.examples.append({"id": batch["id"][row].as_py(), "span": span, "dropped": dropped})
                if dropped:
                    drops[row] = f"shares {span!r} with {each.name}"
        return drops


def _span(batch: pa.RecordBatch, row: int, column: str, start: int, n: int) -> str:
    found = _TOKEN.findall(batch[column][row].as_py().encode().lower())
    return b" ".join(found[start : start + n]).decode()[:200]
