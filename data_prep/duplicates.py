"""Rows that repeat each other: exactly, nearly, or with different golds. Decided over the whole pool at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow.compute as pc

from data_prep.fingerprint import LOOSE, words
from data_prep.pool import Pool

_PERMUTATIONS = 128


def mark_conflicts(pool: Pool, same_gold: Callable[[int, str, str], bool]) -> None:
    """Mark every row whose question also stands with another gold: nobody knows which is right. `same_gold` says of a
    source and two golds in different words (`1/2`, `0.5`) whether they mean the same."""
    rows = np.flatnonzero(pool.good & pool.has_answer)
    order = rows[np.lexsort((pool.gold[rows], pool.key[rows]))]
    same_question = pool.key[order][1:] == pool.key[order][:-1]
    torn = same_question & (pool.gold[order][1:] != pool.gold[order][:-1])
    keys = np.unique(pool.key[order][1:][torn])
    involved = rows[np.isin(pool.key[rows], keys)]
    keys = np.array(_contested(pool, involved, same_gold), dtype=np.uint64)
    pool.mark(rows[np.isin(pool.key[rows], keys)], "conflicting_gold", "the same question with another gold")


def _contested(pool: Pool, rows: np.ndarray, same_gold: Callable[[int, str, str], bool]) -> list[int]:
    """Keys of the questions among these rows whose golds do not all mean the same."""
    golds: dict[int, tuple[int, str]] = {}
    contested: dict[int, bool] = {}
    wanted = set(rows.tolist())
    for first, batch in pool.batches() if wanted else ():
        for row in sorted(wanted & set(range(first, first + batch.num_rows))):
            key, gold = int(pool.key[row]), batch["answer"][row - first].as_py()
            source, known = golds.setdefault(key, (int(pool.source[row]), gold))
            contested[key] = contested.get(key, False) or not (gold == known or same_gold(source, known, gold))
    return [key for key, torn in contested.items() if torn]


def mark_duplicates(pool: Pool) -> None:
    """Mark all but the first of the rows with the same question (or question and solution, as the source says)."""
    rows = np.flatnonzero(pool.good)
    first = np.unique(pool.identity[rows], return_index=True)[1]
    later = np.ones(len(rows), dtype=bool)
    later[first] = False
    pool.mark(rows[later], "duplicate", "the same question as an earlier row")


def mark_near_duplicates(pool: Pool, threshold: float) -> None:
    """Mark rows that have the numbers and gold of an earlier row and about its words (Jaccard similarity of the sets of
    words of at least `threshold`, estimated by MinHash). Other numbers make another problem, not a duplicate."""
    from datasketch import MinHash, MinHashLSH

    # Missing a copy costs more than looking twice: equal numbers and gold confirm a candidate.
    sketches = MinHashLSH(threshold, _PERMUTATIONS, weights=(0.2, 0.8))
    blank = MinHash(_PERMUTATIONS, seed=1, hashfunc=int)
    numbers_of: dict[int, int] = {}
    for first, batch in pool.batches():
        split = words(batch["question"], LOOSE)
        shingles, starts = split.ngrams(1)
        bounds = np.searchsorted(starts, split.offsets)
        whole = pc.replace_substring_regex(batch["question"], r"(\d),(\d{3})", r"\1\2")
        numbers = words(pc.replace_substring_regex(whole, "[^0-9.]+", " "), LOOSE).rows
        for row in np.flatnonzero(pool.good[first : first + batch.num_rows]).tolist():
            mine = shingles[bounds[row] : bounds[row + 1]] & np.uint64(0xFFFFFFFF)
            if not len(mine):
                continue
            place, sketch = first + row, blank.copy()
            sketch.update_batch(mine.tolist())
            numbers_of[place] = int(numbers[row])
            alike = (
                other
                for other in sketches.query(sketch)
                if numbers_of[other] == numbers_of[place] and pool.gold[other] == pool.gold[place]
            )
            if (earlier := min(alike, default=None)) is not None:
                pool.mark(np.array([place]), "near_duplicate", f"nearly row {earlier} of those read")
            else:
                sketches.insert(place, sketch)
