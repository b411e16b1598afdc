"""What a number of items allows to say: shares with intervals, pass@k, and two models on the same items.

The unit is the item (a question), since questions are what was sampled: k answers to one question are one observation,
their mean. So every figure starts from one value an item. docs/statistics.md has the formulas, docs/evidence/statistics.md
the measured coverage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # which imports scipy.stats when it is first used; statsmodels does not, so that the functions import it

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
POWER = 0.8  # with which the detectable difference would be found


@dataclass(frozen=True)
class Share:
    """The mean over `n` items and its 95 % interval, all from 0 to 1."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Mean:
    """The mean of `n` values of any size and its 95 % interval, which is NaN for one value."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4g}" + ("" if math.isnan(self.low) else f" [{self.low:.4g}, {self.high:.4g}]")


@dataclass(frozen=True)
class Paired:
    """Two models on the same `n` items, the second against the first.

    `difference` of the means with its 95 % interval `low` to `high`, `gained` and `lost` items (the second better, worse),
    `p` of "no difference", by `test`; `detectable` is the smallest difference that `n` such items show in four cases of five.
    """

    n: int
    difference: float
    low: float
    high: float
    gained: int
    lost: int
    p: float
    detectable: float
    test: str


def share(values: Sequence[float]) -> Share:
    """The mean of one value from 0 to 1 for each item, with Wilson's interval (Wilson 1927, by statsmodels).

    For values of 0 and 1 that is the plain Wilson interval. For means of k answers the binomial n is the number of independent
    answers that would vary as much as the items do (the effective sample size of cluster sampling, Kish 1965). It is at least
    the number of items, since k equal answers to a question are one. Few items are corrected as in Korn and Graubard 1998.

    Raises:
        ValueError: there is no item.
    """
    from statsmodels.stats.proportion import proportion_confint

    if not len(values):
        raise ValueError("no item was evaluated")
    given = np.asarray(values, dtype=float)
    mean, n = float(given.mean()), len(given)
    effective: float = n
    variance = float(given.var(ddof=1)) / n if n > 1 else 0.0
    if variance != 0.0 and not are_verdicts(given):
        # So many independent answers have a mean that varies as much as this one: p (1 - p) / n is their variance.
        few = scipy.stats.norm.ppf(1 - ALPHA / 2) / scipy.stats.t.ppf(1 - ALPHA / 2, n - 1)
        effective = float(max(n, mean * (1 - mean) / variance) * few**2)
    low, high = proportion_confint(mean * effective, effective, alpha=ALPHA, method="wilson")
    return Share(mean, max(0.0, float(low)), min(1.0, float(high)), n)


def mean_interval(values: Sequence[float]) -> Mean:
    """The mean of one value of any size for each item, with Student's interval (by scipy).

    Raises:
        ValueError: there is no item.
    """
    if not len(values):
        raise ValueError("no item was evaluated")
    given = np.asarray(values, dtype=float)
    mean, n = float(given.mean()), len(given)
    half = float(scipy.stats.t.ppf(1 - ALPHA / 2, n - 1) * given.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Mean(mean, mean - half, mean + half, n)


def are_verdicts(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def pass_at(right: int, drawn: int, k: int) -> float:
    """The probability that one of `k` of the `drawn` answers is among the `right` ones, without bias: 1 - C(drawn - right,
    k) / C(drawn, k) (Chen et al. 2021, "Evaluating large language models trained on code", equation 1).

    Raises:
        ValueError: fewer than k answers were drawn.
    """
    if not 0 < k <= drawn:
        raise ValueError(f"pass@{k} needs at least {k} answers an item; there are {drawn}")
    return 1.0 - float(scipy.special.comb(drawn - right, k, exact=True)) / scipy.special.comb(drawn, k, exact=True)


def paired(first: Mapping[str, float], second: Mapping[str, float]) -> Paired:
    """Compare two models on the same items, each given as the value (0 to 1) of each item by its id.

    Values of 0 and 1 (one answer an item): exact McNemar test (McNemar 1947, binomial form, by statsmodels) and the interval
    of Agresti and Min (2005). Means of k answers: paired t test and its interval (by scipy), which is the cluster-robust one.

    Raises:
        ValueError: there is no item, or the two did not answer the same items.
    """
    if first.keys() != second.keys():
        raise ValueError(f"the two evaluations differ in {len(first.keys() ^ second.keys())} items")
    if not first:
        raise ValueError("no item was evaluated")
    one = np.array(list(first.values()), dtype=float)
    two = np.array([second[item] for item in first], dtype=float)
    n, gaps = len(one), two - one
    gained, lost, mean = int((gaps > 0).sum()), int((gaps < 0).sum()), float(gaps.mean())
    if are_verdicts(np.concatenate([one, two])):
        low, high = agresti_min(gained, lost, n)
        from statsmodels.stats.contingency_tables import mcnemar

        p = float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue)
        # Half an item more on each side: where no item differed, that does not prove that none ever will.
        detectable = detectable_difference(n, (gained + lost + 1) / (n + 2))
        return Paired(n, (gained - lost) / n, low, high, gained, lost, p, detectable, "exact McNemar")
    spread = float(gaps.std(ddof=1)) if n > 1 else math.nan
    if not spread > 0:
        return Paired(n, mean, math.nan, math.nan, gained, lost, 1.0 if mean == 0 else math.nan, math.nan, "paired t")
    test = scipy.stats.ttest_rel(two, one)
    low, high = map(float, test.confidence_interval(CONFIDENCE))
    from statsmodels.stats.power import TTestPower

    effect = float(TTestPower().solve_power(effect_size=None, nobs=n, alpha=ALPHA, power=POWER))
    return Paired(n, mean, low, high, gained, lost, float(test.pvalue), effect * spread, "paired t")


def agresti_min(gained: int, lost: int, n: int) -> tuple[float, float]:
    """95 % interval of (gained - lost) / n: Wald's with half an item added to each cell of the 2 x 2 table (Agresti and Min
    2005, "Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine 24)."""
    up, down, total = gained + 0.5, lost + 0.5, n + 2
    middle = (up - down) / total
    half = float(scipy.stats.norm.ppf(1 - ALPHA / 2)) * math.sqrt((up + down) / total - middle**2) / math.sqrt(total)
    return max(-1.0, middle - half), min(1.0, middle + half)


def detectable_difference(n: int, discordant: float) -> float:
    """The difference that McNemar's test at 5 % finds in 80 % of samples of `n` items; 1.0 where none is large enough.

    A share `discordant` of the items has different verdicts. Source: Connor 1987, "Sample size for testing differences in
    proportions for the paired-sample design", Biometrics 43.
    """
    z_alpha, z_power = scipy.stats.norm.ppf([1 - ALPHA / 2, POWER])

    def missing(difference: float) -> float:
        most = max(discordant, difference)  # a difference needs as many items that differ
        spread = z_alpha * math.sqrt(most) + z_power * math.sqrt(most - difference**2)
        return spread - difference * math.sqrt(n)

    return float(scipy.optimize.brentq(missing, 0.0, 1.0)) if missing(1.0) < 0 else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for being several (Holm 1979, by statsmodels), in the order given."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, alpha=ALPHA, method="holm")[1]] if len(p_values) else []
