"""Which rows of the pool go into which split, in which order and how many: by seeded hashes, the same on any machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data_prep.errors import DataError, Problem
from data_prep.fingerprint import mix_bits
from data_prep.mix import Mix, SplitSpec, Stage
from data_prep.pool import Pool
from data_prep.schema import TEST, row_kind


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that sum to `total` in proportion to the weights, by largest remainder (ties: first name wins)."""
    scale = sum(weights.values())
    exact = {name: total * weight / scale for name, weight in weights.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def split_rows(mix: Mix) -> dict[str, int | None]:
    """The rows of each split (None: all there are): as the mix asks, or shrunk to its `budget` in all splits together, each
    split in its share and at least one row of it.

    A split that takes all there are gets at most the budget. `limit` does the same with little reading and takes what
    there is: a first look whether a mix works. Weights, stages and seeds stay as they are."""
    total = mix.limit or mix.budget
    if total is None:
        return {name: split.rows for name, split in mix.splits.items()}
    asked = {name: split.rows or total for name, split in mix.splits.items()}
    shares = asked if sum(asked.values()) <= total else apportion(total, asked)
    return {name: max(1, rows) for name, rows in shares.items()}


@dataclass(frozen=True)
class Selection:
    """Rows of the pool in the order of the split's file, and the stage of each (index into the split's stages)."""

    rows: np.ndarray
    stages: np.ndarray


def choose_rows(mix: Mix, pool: Pool) -> dict[str, Selection]:
    """Fill every split, held-out ones first. A question belongs to one split only, except where `may_share_with`
    says otherwise. Raises DataError listing every split that asks for more rows than are left."""
    sources = list(mix.sources)
    order = mix_bits(pool.key ^ mix_bits(np.uint64(mix.seed) + pool.source.astype(np.uint64)))
    rows = split_rows(mix)
    taken: dict[str, np.ndarray] = {}
    chosen: dict[str, Selection] = {}
    problems: list[Problem] = []
    for name, split in mix.splits.items():
        blocked = [keys for other, keys in taken.items() if other not in split.may_share_with]
        free = pool.good & np.logical_and.reduce([getattr(pool, f"has_{column}") for column in row_kind(name).needs])
        if blocked:
            free &= ~np.isin(pool.key, np.concatenate(blocked))
        chosen[name] = _within_tokens(_fill_split(split, rows[name], sources, pool, order, free, problems), split, pool)
        if not len(chosen[name].rows) and not problems:
            problems.append(_nothing_left(split, sources, pool))
        taken[name] = np.unique(pool.key[chosen[name].rows])
    if problems and not mix.limit:
        raise DataError(*problems)
    return chosen


def _within_tokens(selection: Selection, split: SplitSpec, pool: Pool) -> Selection:
    """The first rows of every stage, as many as fit into the stage's share of the split's token budget."""
    if split.tokens is None:
        return selection
    keep = np.zeros(len(selection.rows), dtype=bool)
    for number, share in enumerate(_by_stage(split, split.tokens)):
        mine = np.flatnonzero(selection.stages == number)
        keep[mine] = np.cumsum(pool.tokens[selection.rows[mine]]) <= share
    return Selection(selection.rows[keep], selection.stages[keep])


def _fill_split(
    split: SplitSpec,
    most: int | None,
    sources: list[str],
    pool: Pool,
    order: np.ndarray,
    free: np.ndarray,
    problems: list[Problem],
) -> Selection:
    rows, stages = [], []
    counts = [None] * len(split.curriculum) if most is None else _by_stage(split, most)
    if row_kind(split.name).once_a_question and split.name != TEST:
        left = np.flatnonzero(free)
        free = np.zeros_like(free)
        free[left[np.unique(pool.key[left], return_index=True)[1]]] = True
    for number, stage in enumerate(split.curriculum):
        allowed = free
        if stage.difficulty is not None:
            low, high = stage.difficulty
            allowed = free & (pool.difficulty >= low) & (pool.difficulty <= high)
        candidates = {name: np.flatnonzero(allowed & (pool.source == sources.index(name))) for name in stage.sources}
        asked = counts[number]
        if asked is None or split.rows is None:  # the most rows that keep the weights: the scarcest source limits them
            scale = min(len(candidates[name]) / weight for name, weight in stage.sources.items())
            kept = int(scale * sum(stage.sources.values()) + 1e-9)
            asked = min(kept, len(pool) if asked is None else asked)
        wanted = apportion(asked, stage.sources)
        picked = []
        for name, among in candidates.items():
            picked.append(among[np.argsort(order[among], kind="stable")[: wanted[name]]])
            if len(picked[-1]) < wanted[name]:
                problems.append(_too_few(split, stage, name, wanted[name], len(picked[-1])))
        joined = np.concatenate(picked)
        free[joined] = False
        rows.append(joined[np.argsort(order[joined], kind="stable")])
        stages.append(np.full(len(joined), number, dtype=np.int16))
    return Selection(np.concatenate(rows), np.concatenate(stages))


def _by_stage(split: SplitSpec, total: int) -> list[int]:
    """What each stage has of the rows or tokens of its split."""
    return list(apportion(total, {str(number): stage.share for number, stage in enumerate(split.curriculum)}).values())


def _nothing_left(split: SplitSpec, sources: list[str], pool: Pool) -> Problem:
    read = {name: int((pool.source == sources.index(name)).sum()) for name in sorted(split.source_names())}
    kept = {name: int((pool.good & (pool.source == sources.index(name))).sum()) for name in read}
    what = "; ".join(f"{name}: {read[name]} rows read, {kept[name]} pass the filters" for name in read)
    remedy = "look at the sources, at what other splits take, and at difficulty and tokens of this one"
    return Problem(f"mix.splits.{split.name}", f"gets no row ({what})", remedy)


def _too_few(split: SplitSpec, stage: Stage, source: str, wanted: int, found: int) -> Problem:
    place = f"mix.splits.{split.name}" + (f", stage {stage.name}" if stage.name else "")
    return Problem(
        place,
        f"asks for {wanted} rows of {source}; {found} unused ones are left after filters and held-out splits",
        "lower the rows or the weight, widen the difficulty, or give the source more rows",
    )
