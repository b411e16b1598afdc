"""Packed rows through PyTorch's variable-length attention: equal to padded rows through sdpa."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from posttrain_verl.verl import packed_rows
from posttrain_verl.verl.settings import VARLEN

LENGTHS = (5, 1, 9, 3)


@pytest.fixture(scope="module", autouse=True)
def registered():
    packed_rows.register_varlen()


def model(implementation, **options):
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=64, **options)  # fmt: skip
    config._attn_implementation = implementation
    return Qwen2ForCausalLM(config)


def rows():
    torch.manual_seed(1)
    return [torch.randint(97, (length,)) for length in LENGTHS]


def packed(one):
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    return one(input_ids=torch.cat(rows())[None], position_ids=positions[None], use_cache=False).logits[0]


def padded(one, side):
    longest, result = max(LENGTHS), []
    ids, mask = (
        torch.zeros(len(LENGTHS), longest, dtype=torch.long),
        torch.zeros(len(LENGTHS), longest, dtype=torch.long),
    )
    places = [slice(longest - n, None) if side == "left" else slice(0, n) for n in LENGTHS]
    for row, (place, tokens) in enumerate(zip(places, rows(), strict=True)):
        ids[row, place], mask[row, place] = tokens, 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = one(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    result = [logits[row, place] for row, place in enumerate(places)]
    return torch.cat(result)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("options", [{}, {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}])
def test_packed_and_padded_rows_agree_with_sdpa(side, options):
    expected = padded(model("sdpa", **options), side)
    ours = model(VARLEN, **options)
    torch.testing.assert_close(packed(ours), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded(ours, side), expected, atol=1e-5, rtol=1e-4)


def test_gradients_of_a_packed_row():
    theirs, ours = model("sdpa"), model(VARLEN)
    padded(theirs, "right").square().mean().backward()
    packed(ours).square().mean().backward()
    for (name, one), other in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, atol=1e-6, rtol=1e-3, msg=name)


@pytest.mark.parametrize("asked", [{"dropout": 0.1}, {"softcap": 30.0}, {"is_causal": False}])
def test_what_the_kernel_cannot_do_is_refused(asked):
    states = torch.zeros(1, 2, 3, 4)
    with pytest.raises(NotImplementedError, match="does not do"):
        packed_rows.packed_attention(torch.nn.Identity(), states, states, states, None, **asked)
    packed_rows.packed_attention(torch.nn.Identity(), states, states, states, None, dropout=0.0, softcap=None)


@pytest.mark.parametrize("window", [None, 3])
def test_the_cuda_kernel_takes_our_arguments(window):
    """Fake tensors have a device and no memory, so the call itself is judged by the installed PyTorch."""
    with FakeTensorMode():
        query, key = (torch.empty(18, heads, 64, dtype=torch.bfloat16, device="cuda") for heads in (4, 2))
        bounds = torch.empty(5, dtype=torch.int32, device="cuda")
        result = packed_rows.attend_sequences(query, key, key, bounds, 9, 0.125, window)
    assert result.shape == query.shape and result.dtype == query.dtype


def test_a_key_value_cache_is_refused():
    query, key = torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 5, 4)
    with pytest.raises(NotImplementedError, match="KV cache"):
        packed_rows.packed_attention(torch.nn.Identity(), query, key, key, None)
