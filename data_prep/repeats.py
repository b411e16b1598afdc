"""Rows that repeat other rows: overlap with evaluation sets, duplicates, and questions with two golds.

Overlap is counted in shared word n-grams, normalised to lower case, letters and digits, batch by batch while sources are read.
Duplicates and conflicting golds are decided over the whole pool at once.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.fingerprint import LOOSE, hash_words
from data_prep.pool import Pool
from data_prep.schema import ANSWER

TEXTS = ("question", "solution")
EXAMPLES = 20  # overlapping spans kept for each evaluation set
_WHOLE_LEAST = 5  # words that a short question needs before being equal to another one means anything
_BITS = 22
_MASK = np.uint64(2**_BITS - 1)
_PERMUTATIONS = 128
_TOKEN = re.compile(rb"[0-9a-z\x80-\xff]+")  # what `hash_words(..., LOOSE)` counts as a word


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


def index_eval_set(name: str, batches: Iterable[pa.RecordBatch], sizes: Sequence[int]) -> EvalSet:
    grams: dict[int, list[np.ndarray]] = {n: [] for n in sizes}
    whole = []
    for batch in batches:
        for column in TEXTS:
            split = hash_words(batch[column], LOOSE)
            for n in sizes:
                grams[n].append(split.ngrams(n)[0])
        split = hash_words(batch["question"], LOOSE)
        whole.append(split.rows[np.diff(split.offsets) >= _WHOLE_LEAST])
    return EvalSet(name, {n: _unique_hashes(parts) for n, parts in grams.items()}, _unique_hashes(whole))


def _is_among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which values occur in the sorted array `known`."""
    if not len(known):
        return np.zeros(len(values), dtype=bool)
    return known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values


def _unique_hashes(parts: list[np.ndarray]) -> np.ndarray:
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
        split = {column: hash_words(batch[column], LOOSE) for column in TEXTS} if self.sets else {}
        for n in self.sizes:
            for column, text in split.items():
                hashes, starts = text.ngrams(n)
                hits = np.flatnonzero(self._maybe[n][hashes & _MASK])
                for each in self.sets:
                    sure = starts[hits[_is_among(hashes[hits], each.grams[n])]]
                    rows = np.searchsorted(text.offsets, sure, side="right") - 1
                    found.longest[each.name][rows] = n
                    for row, start in zip(rows.tolist(), (sure - text.offsets[rows]).tolist(), strict=True):
                        found.spans[each.name, row] = (column, start, n)
        for each in self.sets:
            same = np.flatnonzero(_is_among(split["question"].rows, each.whole))
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
                column, start, n = spans[each.name, row]
                words = _TOKEN.findall(batch[column][row].as_py().encode().lower())
                span = b" ".join(words[start : start + n]).decode()[:200]
                if len(each.examples) < EXAMPLES:
                    each.examples.append({"id": batch["id"][row].as_py(), "span": span, "dropped": dropped})
                if dropped:
                    drops[row] = f"shares {span!r} with {each.name}"
        return drops


def mark_conflicts(pool: Pool, same_gold: Callable[[int, str, str], bool]) -> None:
    """Mark every row whose question also stands with another gold: nobody knows which is right. `same_gold` says of a
    source and two golds in different words (`1/2`, `0.5`) whether they mean the same."""
    rows = np.flatnonzero(pool.good & pool.has_answer & (pool.spoiled & ANSWER == 0))
    order = rows[np.lexsort((pool.gold[rows], pool.key[rows]))]
    same_question = pool.key[order][1:] == pool.key[order][:-1]
    differ = same_question & (pool.gold[order][1:] != pool.gold[order][:-1])
    wanted = set(rows[np.isin(pool.key[rows], np.unique(pool.key[order][1:][differ]))].tolist())
    golds: dict[int, tuple[int, str]] = {}
    contested: set[int] = set()
    for first, batch in pool.batches() if wanted else ():
        for row in sorted(wanted & set(range(first, first + batch.num_rows))):
            key, gold = int(pool.key[row]), batch["answer"][row - first].as_py()
            source, known = golds.setdefault(key, (int(pool.source[row]), gold))
            if key not in contested and gold != known and not same_gold(source, known, gold):
                contested.add(key)
    keys = np.array(sorted(contested), dtype=np.uint64)
    pool.mark(rows[np.isin(pool.key[rows], keys)], "conflicting_gold", "the same question with another gold")


def mark_duplicates(pool: Pool) -> None:
    """Mark all but the first of the rows with the same question (or question and solution, as the source says). One that every
    split can use counts as earlier than one with a spoiled part."""
    rows = np.flatnonzero(pool.good)
    rows = rows[np.argsort(pool.spoiled[rows] != 0, kind="stable")]
    first = np.unique(pool.identity[rows], return_index=True)[1]
    later = np.ones(len(rows), dtype=bool)
    later[first] = False
    pool.mark(rows[later], "duplicate", "the same question as an earlier row")


def mark_near_duplicates(pool: Pool, threshold: float) -> None:
    """Mark rows that have the numbers and gold of an earlier row and about its words (Jaccard similarity of the sets of
    words of at least `threshold`, estimated by MinHash). Other numbers make another problem, not a duplicate, and the very
    same question is `mark_duplicates`' to judge: it may have several solutions."""
    from datasketch import MinHash, MinHashLSH

    # Missing a copy costs more than looking twice: equal numbers and gold confirm a candidate.
    sketches = MinHashLSH(threshold, _PERMUTATIONS, weights=(0.2, 0.8))
    blank = MinHash(_PERMUTATIONS, seed=1, hashfunc=int)
    numbers_of: dict[int, int] = {}
    for first, batch in pool.batches():
        split = hash_words(batch["question"], LOOSE)
        shingles, starts = split.ngrams(1)
        bounds = np.searchsorted(starts, split.offsets)
        whole = pc.replace_substring_regex(batch["question"], r"(\d),(\d{3})", r"\1\2")
        numbers = hash_words(pc.replace_substring_regex(whole, "[^0-9.]+", " "), LOOSE).rows
        for row in np.flatnonzero(pool.good[first : first + batch.num_rows]).tolist():
            mine = shingles[bounds[row] : bounds[row + 1]] & np.uint64(0xFFFFFFFF)
            if not len(mine):
                continue
            place, sketch = first + row, blank.copy()
            sketch.update_batch(mine.tolist())
            numbers_of[place] = int(numbers[row])
            alike = [
                other
                for other in sketches.query(sketch)
                if numbers_of[other] == numbers_of[place] and pool.gold[other] == pool.gold[place]
            ]
            if any(pool.key[other] == pool.key[place] for other in alike):
                continue
            if (earlier := min(alike, default=None)) is not None:
                pool.mark(np.array([place]), "near_duplicate", f"nearly row {earlier} of those read")
            else:
                sketches.insert(place, sketch)
