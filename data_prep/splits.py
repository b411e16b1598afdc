"""Which rows of the pool go into which split, in which order and how many: by seeded hashes, the same on any machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data_prep.errors import DataError, Problem
from data_prep.fingerprint import mix_bits
from data_prep.mix import Mix, SplitSpec
from data_prep.pool import Pool
from data_prep.schema import SOLUTION, row_kind
from data_prep.supply import Supply


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
    order = mix_bits(pool.key ^ mix_bits(np.uint64(mix.seed) + pool.source.astype(np.uint64)))
    rows = split_rows(mix)
    taken: dict[str, np.ndarray] = {}
    chosen: dict[str, Selection] = {}
    problems: list[Problem] = []
    for name, split in mix.splits.items():
        blocked = {other: keys for other, keys in taken.items() if other not in split.may_share_with}
        supply = Supply(mix, split, pool, blocked)
        filled, missing = _fill_split(supply, rows[name], order)
        problems += missing
        chosen[name] = _within_tokens(filled, split, pool)
        if not len(chosen[name].rows) and not problems:
            problems.append(supply.explain_nothing())
        taken[name] = np.unique(pool.key[chosen[name].rows])
    if problems and not mix.limit:
        raise DataError(*problems)
    return chosen


def shown_tokens(split: str, pool: Pool) -> np.ndarray:
    """The tokens that each row of the pool has in a split, of which some show no solution."""
    return pool.asked + pool.solved if row_kind(split).parts(False) & SOLUTION else pool.asked


def _within_tokens(selection: Selection, split: SplitSpec, pool: Pool) -> Selection:
    """The first rows of every stage, as many as fit into the stage's share of the split's token budget."""
    if split.tokens is None:
        return selection
    keep = np.zeros(len(selection.rows), dtype=bool)
    for number, share in enumerate(_by_stage(split, split.tokens)):
        mine = np.flatnonzero(selection.stages == number)
        keep[mine] = np.cumsum(shown_tokens(split.name, pool)[selection.rows[mine]]) <= share
    return Selection(selection.rows[keep], selection.stages[keep])


def _fill_split(supply: Supply, most: int | None, order: np.ndarray) -> tuple[Selection, list[Problem]]:
    """The rows of every stage, and what is wrong where a source has fewer than a stage asks for."""
    split, sources, free = supply.split, supply.sources, supply.free
    rows, stages, problems = [], [], list[Problem]()
    counts = [None] * len(split.curriculum) if most is None else _by_stage(split, most)
    for number, stage in enumerate(split.curriculum):
        allowed = free & supply.within(stage)
        candidates = {
            name: np.flatnonzero(allowed & (supply.pool.source == sources.index(name))) for name in stage.sources
        }
        asked = counts[number]
        if asked is None or split.rows is None:  # the most rows that keep the weights: the scarcest source limits them
            scale = min(len(candidates[name]) / weight for name, weight in stage.sources.items())
            kept = int(scale * sum(stage.sources.values()) + 1e-9)
            asked = min(kept, len(supply.pool) if asked is None else asked)
        wanted = apportion(asked, stage.sources)
        picked = []
        for name, among in candidates.items():
            picked.append(among[np.argsort(order[among], kind="stable")[: wanted[name]]])
            if len(picked[-1]) < wanted[name]:
                problems.append(supply.explain_too_few(stage, name, wanted[name], len(picked[-1])))
        joined = np.concatenate(picked)
        free[joined] = False
        rows.append(joined[np.argsort(order[joined], kind="stable")])
        stages.append(np.full(len(joined), number, dtype=np.int16))
    return Selection(np.concatenate(rows), np.concatenate(stages)), problems


def _by_stage(split: SplitSpec, total: int) -> list[int]:
    """What each stage has of the rows or tokens of its split."""
    return list(apportion(total, {str(number): stage.share for number, stage in enumerate(split.curriculum)}).values())
