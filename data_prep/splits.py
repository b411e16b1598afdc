"""Which pool rows go into which split, in which order: by seeded hashes, the same on any machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data_prep.errors import DataError, Problem
from data_prep.fingerprint import scramble
from data_prep.mix import Mix, SplitSpec, Stage
from data_prep.pool import Pool
from data_prep.schema import is_sft
from data_prep.sizing import apportion


@dataclass(frozen=True)
class Selection:
    """Rows of the pool in the order of the split's file, and the stage of each (index into the split's stages)."""

    rows: np.ndarray
    stages: np.ndarray


def choose(mix: Mix, pool: Pool) -> dict[str, Selection]:
    """Fill every split, held-out ones first. A question belongs to one split only, except where `may_share_with`
    says otherwise. Raises DataError listing every split that asks for more rows than are left."""
    sources = list(mix.sources)
    order = scramble(pool.key ^ scramble(np.uint64(mix.seed) + pool.source.astype(np.uint64)))
    taken: dict[str, np.ndarray] = {}
    chosen: dict[str, Selection] = {}
    problems: list[Problem] = []
    for name, split in mix.splits.items():
        blocked = [keys for other, keys in taken.items() if other not in split.may_share_with]
        free = pool.good & (pool.has_solution if is_sft(name) else pool.has_answer)
        if blocked:
            free &= ~np.isin(pool.key, np.concatenate(blocked))
        chosen[name] = _within_tokens(_fill(split, sources, pool, order, free, problems), split, pool)
        if not len(chosen[name].rows) and not problems:
            problems.append(_nothing_left(split, sources, pool))
        taken[name] = np.unique(pool.key[chosen[name].rows])
    if problems and not mix.lenient:
        raise DataError(*problems)
    return chosen


def _within_tokens(selection: Selection, split: SplitSpec, pool: Pool) -> Selection:
    """The first rows of every stage, as many as fit into the stage's share of the split's token budget."""
    if split.tokens is None:
        return selection
    shares = apportion(split.tokens, {str(number): stage.share for number, stage in enumerate(split.stages)})
    keep = np.zeros(len(selection.rows), dtype=bool)
    for number in range(len(split.stages)):
        mine = np.flatnonzero(selection.stages == number)
        keep[mine] = np.cumsum(pool.tokens[selection.rows[mine]]) <= shares[str(number)]
    return Selection(selection.rows[keep], selection.stages[keep])


def _fill(
    split: SplitSpec, sources: list[str], pool: Pool, order: np.ndarray, free: np.ndarray, problems: list[Problem]
) -> Selection:
    rows, stages = [], []
    counts = _stage_rows(split)
    if split.name.startswith("rl_"):
        free = _one_per_question(free, pool)
    for number, stage in enumerate(split.stages):
        allowed = free & _within(stage, pool.difficulty)
        candidates = {name: np.flatnonzero(allowed & (pool.source == sources.index(name))) for name in stage.weights}
        asked = counts[number]
        if asked is None or split.or_fewer:
            asked = min(_most(stage, candidates), len(pool) if asked is None else asked)
        wanted = apportion(asked, stage.weights)
        picked = [_first(candidates[name], order, wanted[name]) for name in stage.weights]
        for name, taken in zip(stage.weights, picked, strict=True):
            if len(taken) < wanted[name]:
                problems.append(_too_few(split, stage, name, wanted[name], len(taken)))
        joined = np.concatenate(picked)
        free[joined] = False
        rows.append(joined[np.argsort(order[joined], kind="stable")])
        stages.append(np.full(len(joined), number, dtype=np.int16))
    return Selection(np.concatenate(rows), np.concatenate(stages))


def _one_per_question(free: np.ndarray, pool: Pool) -> np.ndarray:
    """Sources with several solutions a question give RL that question once."""
    rows = np.flatnonzero(free)
    single = np.zeros_like(free)
    single[rows[np.unique(pool.key[rows], return_index=True)[1]]] = True
    return single


def _stage_rows(split: SplitSpec) -> list[int | None]:
    if split.rows is None:
        return [None] * len(split.stages)
    shares = {str(number): stage.share for number, stage in enumerate(split.stages)}
    return list(apportion(split.rows, shares).values())


def _within(stage: Stage, difficulty: np.ndarray) -> np.ndarray:
    if stage.difficulty is None:
        return np.ones(len(difficulty), dtype=bool)
    low, high = stage.difficulty
    return (difficulty >= low) & (difficulty <= high)


def _most(stage: Stage, candidates: Mapping[str, np.ndarray]) -> int:
    """The most rows that keep the weights, limited by the scarcest source."""
    scale = min(len(candidates[name]) / weight for name, weight in stage.weights.items())
    return int(scale * sum(stage.weights.values()) + 1e-9)


def _first(candidates: np.ndarray, order: np.ndarray, count: int) -> np.ndarray:
    return candidates[np.argsort(order[candidates], kind="stable")[:count]]


def _nothing_left(split: SplitSpec, sources: list[str], pool: Pool) -> Problem:
    read = {name: int((pool.source == sources.index(name)).sum()) for name in sorted(split.sources())}
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
