"""Smaller builds by the same path: a budget for all splits together, or a small validation build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from data_prep.mix import Mix

_READ_FOR_EACH_ROW = 4  # filters and held-out splits take their share before a limited build gets its rows


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that sum to `total` in proportion to the weights, by largest remainder (ties: first name wins)."""
    scale = sum(weights.values())
    exact = {name: total * weight / scale for name, weight in weights.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def resize(mix: Mix, limit: int | None = None, budget: int | None = None) -> Mix:
    """Shrink a mix to `budget` rows in all splits together, each split in its share and at least one row of it.

    A split that takes all there are gets at most the budget. `limit` does the same with little reading and takes what
    there is: a first look whether a mix works. Weights, stages and seeds stay as they are."""
    total = limit or budget
    if total is None:
        return mix
    asked = {name: float(split.rows or total) for name, split in mix.splits.items()}
    shares = (
        {name: int(rows) for name, rows in asked.items()} if sum(asked.values()) <= total else apportion(total, asked)
    )
    splits = {
        name: replace(split, rows=max(1, shares[name]), or_fewer=split.rows is None)
        for name, split in mix.splits.items()
    }
    if limit is None:
        return replace(mix, splits=splits)
    return replace(mix, splits=splits, read_at_most=_READ_FOR_EACH_ROW * limit, lenient=True)
