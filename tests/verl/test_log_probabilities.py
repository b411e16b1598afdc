"""Log-probabilities in the memory of the logits, against PyTorch's own."""

import pytest
import torch

from posttrain_verl.verl import packed_rows
from posttrain_verl.verl.packed_rows import log_probabilities as ours


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("shape", [(5, 11), (2, 7, 11), (1, 1, 11)])
def test_values_and_gradients(monkeypatch, shape, inplace):
    monkeypatch.setitem(packed_rows.CHUNK, "cpu", 3 * shape[-1])
    torch.manual_seed(0)
    logits = (4 * torch.randn(shape)).requires_grad_()
    labels, weights = torch.randint(shape[-1], shape[:-1]), torch.randn(shape[:-1])
    expected = logits.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), logits)
    found = ours(logits.clone(), labels, inplace)  # the clone is no leaf: it may be overwritten
    torch.testing.assert_close(found, expected)
    (ours_gradient,) = torch.autograd.grad((found * weights).sum(), logits)
    torch.testing.assert_close(ours_gradient, gradient)


def test_half_precision_is_summed_in_full():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 50_000).bfloat16(), torch.randint(50_000, (4,))
    expected = logits.double().log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
    found = ours(logits, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


def test_the_gradient_takes_the_place_of_the_logits():
    logits = torch.randn(4, 9, requires_grad=True)
    copy = logits.clone()
    ours(copy, torch.zeros(4, dtype=torch.long)).sum().backward()
    torch.testing.assert_close(copy.detach(), logits.grad)
