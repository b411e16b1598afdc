"""The rule that ends a stage, on curves of held-out loss."""

import pytest

from posttrain_verl.pipeline.training import Plateau

FALLING = [2.1, 1.6, 1.2, 0.9, 0.7, 0.55]
LEVEL = [2.1, 1.2, 0.90, 0.88, 0.879, 0.881]
OVERFITTING = [2.1, 1.2, 0.9, 0.95, 1.05]
BUMP = [2.1, 1.2, 1.25, 0.9, 0.7]  # one bad validation is no plateau


def first_end(curve, rule):
    """The number of validations after which the rule ends the run, or None."""
    return next((n for n in range(1, len(curve) + 1) if rule.is_reached(curve[:n])), None)


@pytest.mark.parametrize(
    ("curve", "patience", "ends"),
    [(FALLING, 2, None), (LEVEL, 2, 6), (LEVEL, 1, 5), (OVERFITTING, 2, 5), (OVERFITTING, 1, 4), (BUMP, 2, None), ([], 2, None)],
)  # fmt: skip
def test_where_a_curve_ends(curve, patience, ends):
    assert first_end(curve, Plateau(patience=patience, min_gain=0.01)) == ends


def test_a_larger_gain_is_asked_for():
    assert first_end(LEVEL, Plateau(patience=2, min_gain=0.0)) is None
    assert first_end(LEVEL, Plateau(patience=2, min_gain=0.05)) == 5


def test_a_loss_that_is_no_number_is_no_gain():
    assert Plateau(patience=1).is_reached([1.0, float("nan")])


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"min_gain": -0.1}])
def test_a_rule_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="not a number of at least"):
        Plateau(**wrong)
