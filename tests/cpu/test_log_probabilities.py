"""The patched log-probabilities are VeRL's own, for packed and padded batches."""

import pytest
import torch

from posttrain_verl.cpu.verl_plugin import batched_log_probabilities


@pytest.mark.parametrize("shape", [(7,), (3, 5)])
def test_values_and_gradients_are_those_of_log_softmax(shape):
    torch.manual_seed(0)
    logits, labels = torch.randn(*shape, 11, dtype=torch.float64, requires_grad=True), torch.randint(11, shape)
    expected = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    (gradient,) = torch.autograd.grad(expected.square().sum(), logits)

    found = batched_log_probabilities.replace(lambda logits, labels: None)(logits, labels)

    assert found.shape == shape
    assert torch.allclose(found, expected)
    assert torch.allclose(torch.autograd.grad(found.square().sum(), logits)[0], gradient)
