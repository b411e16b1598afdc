"""The statistics against scipy, statsmodels, cases worked by hand, and simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel
from statsmodels.stats.proportion import proportion_confint

from posttrain_verl.significance import agresti_min, detectable_difference, holm, paired, pass_at, share

RUNS = 1200  # of a simulation; a coverage of 95 % then comes out within 1.3 points in 19 cases of 20


def keyed(values):
    return {str(place): float(value) for place, value in enumerate(values)}


def coverage(draw, truth, interval):
    seen = (interval(draw()) for _ in range(RUNS))
    return sum(low <= truth <= high for low, high in seen) / RUNS


def of_share(values):
    found = share(values)
    return found.low, found.high


def test_wilson_by_hand_and_by_statsmodels():
    found = share([1.0] * 8 + [0.0] * 2)
    # p = 0.8, z = 1.96: middle (0.8 + 0.19207) / 1.38415, half width 1.96 sqrt(0.016 + 0.009604) / 1.38415.
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert (found.value, found.n) == (0.8, 10)
    for right, n in ((0, 30), (7, 30), (30, 30), (500, 1319)):
        found = share([1.0] * right + [0.0] * (n - right))
        assert (found.low, found.high) == pytest.approx(proportion_confint(right, n, method="wilson"), abs=1e-12)


def test_answers_that_agree_count_once_and_free_ones_count_each():
    rng = np.random.default_rng(3)
    verdicts = rng.integers(0, 2, 400).astype(float)
    agreeing, free = share(verdicts), share(rng.binomial(8, 0.5, 400) / 8)
    together = share(np.repeat(verdicts, 8).reshape(400, 8).mean(axis=1))
    assert (together.low, together.high) == (agreeing.low, agreeing.high)
    narrower = (agreeing.high - agreeing.low) / (free.high - free.low)
    assert narrower == pytest.approx(math.sqrt(8), rel=0.12)


def test_no_item_is_an_error():
    with pytest.raises(ValueError, match="no item"):
        share([])
    with pytest.raises(ValueError, match="no item"):
        paired({}, {})


@pytest.mark.parametrize(("drawn", "right", "k"), [(8, 3, 2), (8, 0, 4), (8, 8, 1), (5, 4, 2), (6, 2, 6), (10, 1, 3)])
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_answer(drawn, right, k):
    answers = [True] * right + [False] * (drawn - right)
    draws = list(itertools.combinations(answers, k))
    assert pass_at(right, drawn, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


def test_pass_at_k_is_unbiased():
    p, drawn, k = 0.2, 8, 4
    weights = [math.comb(drawn, c) * p**c * (1 - p) ** (drawn - c) for c in range(drawn + 1)]
    expected = sum(weight * pass_at(c, drawn, k) for c, weight in enumerate(weights))
    assert expected == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    with pytest.raises(ValueError, match="pass@9"):
        pass_at(1, 8, 9)


def test_mcnemar_by_hand_and_by_scipy():
    first = keyed([0] * 8 + [1] * 1 + [1] * 11)
    second = keyed([1] * 8 + [0] * 1 + [1] * 11)
    found = paired(first, second)
    assert (found.gained, found.lost, found.n, found.test) == (8, 1, 20, "exact McNemar")
    assert found.p == pytest.approx(2 * (1 + 9) / 2**9)
    assert found.p == pytest.approx(binomtest(8, 9).pvalue)
    assert found.difference == pytest.approx(7 / 20)


def test_interval_of_a_paired_difference_of_a_published_table():
    # 1600 people asked twice whether they approve, Agresti, Categorical Data Analysis: 86 to yes, 150 to no; the book's
    # Wald interval is -0.04 +- 1.96 * 0.0095. With 1600 pairs the half items of Agresti and Min move it by 1e-4.
    assert agresti_min(86, 150, 1600) == pytest.approx((-0.0586, -0.0214), abs=2e-4)
    low, high = agresti_min(0, 0, 50)
    assert low < 0 < high, "no flip among 50 items is no proof that none will come"


def test_means_of_several_answers_are_compared_by_the_paired_t_test():
    rng = np.random.default_rng(5)
    one, two = rng.binomial(8, 0.4, 60) / 8, rng.binomial(8, 0.5, 60) / 8
    found, test = paired(keyed(one), keyed(two)), ttest_rel(two, one)
    assert (found.test, found.p) == ("paired t", pytest.approx(test.pvalue))
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found.difference == pytest.approx((two - one).mean())
    spread = (two - one).std(ddof=1) / math.sqrt(60)
    assert found.detectable == pytest.approx((1.96 + 0.84) * spread, rel=0.03)


def test_equal_means_have_no_difference_and_no_power():
    same = paired(keyed([0.5, 0.25]), keyed([0.5, 0.25]))
    assert (same.difference, same.p) == (0.0, 1.0)
    assert math.isnan(same.detectable)


def test_only_the_same_items_are_compared():
    with pytest.raises(ValueError, match="2 items"):
        paired({"a": 1.0}, {"b": 1.0})


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def planted(rng, n, up, down):
    """Two models on n items of which a share `up` flips to right and a share `down` to wrong."""
    kind = rng.random(n)
    first = np.where(kind < up, 0, np.where(kind < up + down, 1, rng.integers(0, 2, n)))
    second = np.where(kind < up, 1, np.where(kind < up + down, 0, first))
    return keyed(first), keyed(second)


def test_the_detectable_difference_is_found_in_four_cases_of_five():
    rng, n, discordant = np.random.default_rng(7), 400, 0.2
    gap = detectable_difference(n, discordant)
    up, down = (discordant + gap) / 2, (discordant - gap) / 2
    found = sum(paired(*planted(rng, n, up, down)).p < 0.05 for _ in range(RUNS)) / RUNS
    assert 0.72 < found < 0.84, "the exact test is a little more cautious than the formula"
    assert detectable_difference(2, 0.5) == 1.0, "two items show nothing"


def test_planted_differences_are_found_and_none_is_invented():
    rng = np.random.default_rng(11)
    real = [paired(*planted(rng, 1319, 0.12, 0.05)) for _ in range(200)]
    assert sum(each.p < 0.05 and each.low > 0 for each in real) >= 198
    none = [paired(*planted(rng, 1319, 0.08, 0.08)) for _ in range(RUNS)]
    assert sum(each.p < 0.05 for each in none) / RUNS <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize(("a", "b"), [(1, 1), (0.5, 2), (2, 0.3)])
@pytest.mark.parametrize(("n", "k"), [(30, 32), (200, 1), (200, 8), (1319, 1)])
def test_an_interval_of_95_percent_holds_the_truth_in_95_percent(n, k, a, b):
    """Items whose chances of a right answer spread as a beta distribution does, k answers each."""
    rng = np.random.default_rng(13)
    seen = coverage(lambda: rng.binomial(k, rng.beta(a, b, n)) / k, a / (a + b), of_share)
    assert 0.93 <= seen <= 0.97


@pytest.mark.slow
def test_the_interval_of_pass_at_k_covers():
    rng = np.random.default_rng(17)
    table = np.array([pass_at(right, 8, 4) for right in range(9)])
    truth = 1 - math.exp(math.lgamma(2.5) + math.lgamma(6) - math.lgamma(2) - math.lgamma(6.5))  # 1 - E (1 - p)^4
    seen = coverage(lambda: table[rng.binomial(8, rng.beta(0.5, 2, 200))], truth, of_share)
    assert 0.93 <= seen <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("n", "up", "down"), [(200, 0.15, 0.05), (200, 0.05, 0.05), (1319, 0.06, 0.04)])
def test_the_interval_of_a_paired_difference_covers(n, up, down):
    rng = np.random.default_rng(19)

    def difference():
        first, second = planted(rng, n, up, down)
        return paired(first, second)

    seen = coverage(difference, up - down, lambda found: (found.low, found.high))
    assert 0.93 <= seen <= 0.97
