"""Accuracy on a set of items, with what its size allows to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint


@dataclass(frozen=True)
class Accuracy:
    """The share of right items with its 95 % Wilson interval (Wilson 1927, by statsmodels); all from 0 to 1."""

    n: int
    correct: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.correct / self.n

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Paired:
    """Two models on the same items: how many only the second got right, only the first, and the exact McNemar p."""

    gained: int
    lost: int
    p: float


def accuracy(right: Sequence[bool]) -> Accuracy:
    """Accuracy over items, one verdict each.

    Raises:
        ValueError: there is no item.
    """
    if not right:
        raise ValueError("no item was evaluated")
    low, high = proportion_confint(sum(right), len(right), method="wilson")
    return Accuracy(len(right), sum(right), float(low), float(high))


def paired(first: dict[str, bool], second: dict[str, bool]) -> Paired:
    """Exact McNemar test on the items of both, keyed by item id (McNemar 1947, the binomial form, by statsmodels).

    Raises:
        ValueError: the two did not answer the same items.
    """
    if first.keys() != second.keys():
        raise ValueError(f"the two evaluations differ in {len(first.keys() ^ second.keys())} items")
    gained = sum(second[item] and not first[item] for item in first)
    lost = sum(first[item] and not second[item] for item in first)
    return Paired(gained, lost, float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue))
