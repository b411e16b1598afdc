"""The losses of pairs as formulas that are written out, and what a packed micro batch is to them."""

import math

import pytest

pytestmark = pytest.mark.slow  # imports torch


def log_sigmoid(value):
    return -math.log1p(math.exp(-value))


CHOSEN, REJECTED = (-10.0, -12.0, 5), (-20.0, -18.0, 8)  # log-probability, that of the reference, tokens
SUMS = (CHOSEN[0] - CHOSEN[1]) - (REJECTED[0] - REJECTED[1])
MEANS = (CHOSEN[0] - CHOSEN[1]) / 5 - (REJECTED[0] - REJECTED[1]) / 8
EXPECTED = {
    "sigmoid": -log_sigmoid(0.3 * SUMS),
    "sigmoid_norm": -log_sigmoid(0.3 * MEANS),
    "ipo": (MEANS - 1 / 0.6) ** 2,
    "simpo": -log_sigmoid(0.3 * (-10 / 5 + 20 / 8)),
}


def answers(log_prob, reference, tokens):
    import torch

    from posttrain_verl.verl.dpo_losses import Answers

    return Answers(torch.tensor([log_prob]), torch.tensor([reference]), torch.tensor([tokens]))


def loss_of(name, **more):
    from posttrain_verl.verl.dpo_losses import PreferenceLoss

    return float(PreferenceLoss(name, 0.3, **more).per_pair(answers(*CHOSEN), answers(*REJECTED)))


@pytest.mark.parametrize("name", EXPECTED)
def test_each_loss_is_its_formula(name):
    assert loss_of(name) == pytest.approx(EXPECTED[name], rel=1e-6)


def test_every_loss_has_its_settings():
    from posttrain_verl.verl.dpo import LOSSES
    from posttrain_verl.verl.dpo_losses import SCORES, PreferenceLoss

    assert LOSSES.keys() == SCORES.keys() == EXPECTED.keys()
    assert {name: PreferenceLoss(name).needs_reference for name in LOSSES} == {
        name: loss.has_reference for name, loss in LOSSES.items()
    }


def test_label_smoothing_the_margin_of_simpo_and_the_likelihood_of_the_chosen_answer():
    smoothed = -0.8 * log_sigmoid(0.3 * SUMS) - 0.2 * log_sigmoid(-0.3 * SUMS)
    assert loss_of("sigmoid", label_smoothing=0.2) == pytest.approx(smoothed, rel=1e-6)
    assert loss_of("simpo", target_margin=0.5) == pytest.approx(-log_sigmoid(0.3 * 0.5 - 0.5), rel=1e-6)
    assert loss_of("sigmoid", nll_weight=2.0) == pytest.approx(EXPECTED["sigmoid"] + 2 * 10 / 5, rel=1e-6)


def test_answers_are_summed_over_their_own_tokens():
    """Place i of VeRL's log-probabilities is that of token i + 1, and the last of a sequence has none of its own."""
    import torch

    from posttrain_verl.verl.dpo_losses import sum_answers

    lengths, mask = torch.tensor([4, 3, 2]), torch.tensor([0, 0, 1, 1, 0, 1, 0, 0, 0])
    values = torch.tensor([1.0, 2, 4, 100, 8, 100, 100, 100, 100])
    sums, tokens = sum_answers(values, mask, lengths)
    assert sums.tolist() == [6.0, 8.0, 0.0] and tokens.tolist() == [2, 1, 0]


def micro_batch(masks, reference, pairs):
    import torch

    nested = lambda rows: torch.nested.as_nested_tensor(rows, layout=torch.jagged)  # noqa: E731
    return {"loss_mask": nested([torch.tensor(mask) for mask in masks]), "reference_log_probs": torch.tensor(reference),
            "batch_pairs": pairs, "dp_size": 2}, nested  # fmt: skip


def test_a_pair_that_fills_a_batch_neither_counts_nor_breaks_the_others():
    import torch

    from posttrain_verl.verl.dpo_losses import PreferenceLoss, preference_loss

    masks = [[0, 1, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    data, nested = micro_batch(masks, [-1.0, -2.0, 0.0, 0.0], pairs=1)
    values = torch.tensor([-0.5, -0.7, 9.0, -3.0, 9, 9, float("-inf"), 9, 9, 9, 9, 9], requires_grad=True)
    log_probs = nested(list(values.split(3)))
    share, sums = preference_loss(PreferenceLoss("sigmoid", 0.5), {"log_probs": log_probs}, data)
    margin = 0.5 * ((-1.2 + 1.0) - (-3.0 + 2.0))
    assert float(share) == pytest.approx(-log_sigmoid(margin) * 2, rel=1e-6), "times the ranks that share the data"
    assert sums == pytest.approx({"pairs": 1, "margin": margin, "accuracy": 1, "chosen_logp": -0.6, "rejected_logp": -3.0,
                                  "kl": 0.2 + 1.0, "tokens": 3}, rel=1e-5)  # fmt: skip
    share.backward()
    assert torch.isfinite(values.grad).all() and (values.grad != 0).tolist() == [True, True, False, True] + [False] * 8


def test_simpo_reads_no_reference():
    import torch

    from posttrain_verl.verl.dpo_losses import PreferenceLoss, preference_loss

    data, nested = micro_batch([[0, 1], [0, 1]], [0.0, 0.0], pairs=1)
    del data["reference_log_probs"]
    log_probs = nested([torch.tensor([-1.0, 0.0]), torch.tensor([-2.0, 0.0])])
    share, sums = preference_loss(PreferenceLoss("simpo", 2.0), {"log_probs": log_probs}, data)
    assert float(share) == pytest.approx(-2 * log_sigmoid(2.0)) and "kl" not in sums
