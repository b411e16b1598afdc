"""The sampling of the CPU backend draws from the model's distribution."""

import torch
from scipy.stats import chisquare

from posttrain_verl.cpu.vllm_plugin import one_number_a_row


def test_tokens_come_as_often_as_their_probabilities_say():
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5], [3.0, 0.0, -2.0, 0.0, 1.0]])
    rows, draws = torch.arange(2).repeat_interleave(20_000), 20_000
    tokens = one_number_a_row.replace(None)(logits[rows])
    for row in range(2):
        seen = torch.bincount(tokens[rows == row], minlength=5)
        assert chisquare(seen, logits[row].double().softmax(0) * draws).pvalue > 0.001


def test_a_token_that_top_p_has_forbidden_never_comes():
    never = float("-inf")
    logits = torch.tensor([[never, 0.0, never, 0.0, never], [never, never, never, never, 0.0]]).repeat(2_000, 1)
    tokens = one_number_a_row.replace(None)(logits).view(-1, 2)
    assert set(tokens[:, 0].tolist()) == {1, 3}
    assert set(tokens[:, 1].tolist()) == {4}
