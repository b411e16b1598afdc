"""Attention and log-probabilities of packed rows, at flash-attn's cost whether flash-attn is installed or not.

Without flash-attn transformers offers `sdpa`, which makes a mask over all pairs of tokens, and `flex_attention`, which
compiles a kernel for each new shape. PyTorch contains flash-attn's kernel (`torch.nn.attention.varlen`). It is registered
in transformers as `varlen`; flash-attn's own kernel is used where it is installed. VeRL's sequence parallelism (Ulysses)
works with it. Log-probabilities need no more memory than the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from posttrain_verl.verl.settings import VARLEN

# What transformers passes to an attention, and PyTorch's kernel has no parameter for: dropout in training, the soft cap of
# Gemma 2, the attention sinks of gpt-oss.
UNSUPPORTED = ("dropout", "softcap", "s_aux")


def register_varlen(_: Any = None) -> None:
    """Make the name known to transformers; a hook of its import calls this with the module."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    AttentionInterface.register(VARLEN, packed_attention)
    AttentionMaskInterface.register(VARLEN, flash_attention_mask)  # None, or the mask of a padded batch as it came


def packed_attention(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                     scaling: float | None = None, sliding_window: int | None = None, position_ids: Tensor | None = None,
                     **more: Any) -> tuple[Tensor, None]:  # fmt: skip
    """Causal attention within each sequence, as transformers calls it.

    Args:
        query: [rows, heads, tokens, head_dim].
        key, value: [rows, key heads, tokens, head_dim]; the heads are a multiple of the key heads.
        attention_mask: [rows, tokens], 1 where a padded batch has a token; None for a packed row and for full rows.
        position_ids: [rows, tokens]; 0 begins a sequence of a packed row.

    Returns:
        [rows, tokens, heads, head_dim], zero where there is no token.

    Raises:
        NotImplementedError: the model asks for what the kernel does not do (`UNSUPPORTED`).
    """
    _refuse_unsupported(module, more)
    if key.shape[2] != query.shape[2]:
        raise NotImplementedError(
            f"attn_implementation={VARLEN} does not generate with a KV cache; load the model with sdpa"
        )
    from transformers.integrations.flash_attention import get_target_dtype

    dtype = query.dtype  # the kernel takes half precision only
    target = (get_target_dtype(query, module) if query.is_cuda else None) or dtype
    query, key, value = (one.transpose(1, 2).to(target) for one in (query, key, value))
    from verl.utils import ulysses

    ranks = int(ulysses.get_ulysses_sequence_parallel_world_size())
    if ranks > 1:
        assert position_ids is not None, "without them the parts of a sequence cannot be put together"
        query, key, value, position_ids = _gather_sequences(query, key, value, position_ids, ranks)
    if attention_mask is not None:
        result = _attend_padded(query, key, value, attention_mask, scaling, sliding_window)
    else:
        bounds, longest = sequence_boundaries(query, position_ids)
        flat = (query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1))
        result = attend_sequences(*flat, bounds, longest, scaling, sliding_window).view(query.shape)
    if ranks > 1:
        result = ulysses.gather_heads_scatter_seq(result, seq_dim=1, head_dim=2)
    return result.to(dtype), None


def _refuse_unsupported(module: torch.nn.Module, asked: dict[str, Any]) -> None:
    values = {name: asked.get(name) for name in UNSUPPORTED}
    wanted = [name for name, value in values.items() if isinstance(value, Tensor) or value]
    if not getattr(module, "is_causal", True) or asked.get("is_causal") is False:
        wanted.append("attention in both directions")
    if wanted:
        raise NotImplementedError(
            f"attn_implementation={VARLEN} does not do {', '.join(wanted)}, which {type(module).__name__} asks for; "
            "set override_config.attn_implementation to one that does (flash_attention_2, eager)"
        )


def sequence_boundaries(query: Tensor, position_ids: Tensor | None) -> tuple[Tensor, int]:
    """Where the sequences begin, and the end of the last: int32 [sequences + 1]; and how long the longest is."""
    rows, tokens = query.shape[:2]
    if position_ids is None or rows > 1:
        return torch.arange(0, rows * tokens + 1, tokens, dtype=torch.int32, device=query.device), tokens
    starts = (position_ids.flatten() == 0).nonzero().flatten().to(torch.int32)
    bounds = torch.nn.functional.pad(starts, (0, 1), value=tokens)
    if bounds[0] > 0:  # the row begins in the middle of a sequence
        bounds = torch.nn.functional.pad(bounds, (1, 0))
    return bounds, int(bounds.diff().max())


def attend_sequences(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, scale: float | None,
           window: int | None) -> Tensor:  # fmt: skip
    """Causal attention of each sequence to its last `window` tokens, or to all: [tokens, heads, head_dim]."""
    if query.is_cuda:
        kernel, window_size = cuda_kernel(), (window - 1 if window else -1, 0)
        return kernel(query, key, value, bounds, bounds, longest, longest, scale, window_size)
    return torch.cat([_attend_one(query[start:end], key[start:end], value[start:end], scale, window)
                      for start, end in zip(bounds.tolist()[:-1], bounds.tolist()[1:], strict=True)])  # fmt: skip


@cache
def cuda_kernel() -> Callable[..., Tensor]:
    """flash-attn's kernel where it is installed, else the one in PyTorch. Both take fewer key heads than query heads."""
    if find_spec("flash_attn"):
        from flash_attn import flash_attn_varlen_func

        def flash_attn_kernel(*tensors_and_bounds: Any) -> Tensor:
            *rest, scale, window_size = tensors_and_bounds
            return flash_attn_varlen_func(*rest, softmax_scale=scale, causal=True, window_size=window_size)

        return flash_attn_kernel

    from torch.nn.attention.varlen import varlen_attn

    # From PyTorch 2.13 on, fewer key heads must be declared; 2.11 has no such parameter and takes them as they come.
    declared = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}

    def pytorch_kernel(*tensors_and_bounds: Any) -> Tensor:
        *rest, scale, window_size = tensors_and_bounds
        return varlen_attn(*rest, scale=scale, window_size=window_size, **declared)

    return pytorch_kernel


def _attend_one(query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None) -> Tensor:
    mask = None
    if window and len(query) > window:
        mask = torch.ones(len(query), len(query), dtype=torch.bool, device=query.device).tril().triu(1 - window)
    parts = (one.transpose(0, 1) for one in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(
        *parts, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    ).transpose(0, 1)


def _attend_padded(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None, window: int | None
) -> Tensor:
    there = mask.flatten().nonzero().flatten()
    lengths = mask.sum(1, dtype=torch.int32)
    bounds = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    packed = (query.flatten(0, 1)[there], key.flatten(0, 1)[there], value.flatten(0, 1)[there])
    attended = attend_sequences(*packed, bounds, int(lengths.max()), scale, window)
    return torch.zeros_like(query.flatten(0, 1)).index_copy(0, there, attended).view(query.shape)


def _gather_sequences(
    query: Tensor, key: Tensor, value: Tensor, position_ids: Tensor, ranks: int
) -> tuple[Tensor, ...]:
    """From a part of the tokens with all heads to all tokens with a part of the heads (DeepSpeed-Ulysses)."""
    from verl.utils import ulysses

    copies = max(ranks // key.shape[2], 1)  # of each key head, where there are fewer than ranks
    key, value = (one.repeat_interleave(copies, dim=2) for one in (key, value))
    query, key, value = (ulysses.gather_seq_scatter_heads(one, seq_dim=1, head_dim=2) for one in (query, key, value))
    parts = [torch.empty_like(position_ids) for _ in range(ranks)]
    torch.distributed.all_gather(parts, position_ids, group=ulysses.get_ulysses_sequence_parallel_group())
    return query, key, value, torch.cat(parts, dim=-1)


# Logits that are in fp32 at a time: what a CPU's cache holds, and elsewhere 128 MiB, so that few kernels are started.
CHUNK = {"cpu": 2**19}
CHUNK_ELSEWHERE = 2**25


def log_probabilities(logits: Tensor, labels: Tensor, inplace_backward: bool = True) -> Tensor:
    """The log-probability of `labels` [...] under `logits` [..., vocabulary], in fp32.

    With `inplace_backward` the gradient takes the place of the logits, which nobody may need afterwards.
    """
    flat = logits.reshape(-1, logits.shape[-1])
    return _LogProbabilities.apply(flat, labels.reshape(-1), inplace_backward).view(labels.shape)


class _LogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, inplace_backward: bool) -> Tensor:
        ctx.rows = max(CHUNK.get(logits.device.type, CHUNK_ELSEWHERE) // logits.shape[-1], 1)
        totals = torch.cat([chunk.float().logsumexp(-1) for chunk in logits.split(ctx.rows)])
        ctx.save_for_backward(logits, labels, totals)
        ctx.inplace_backward = inplace_backward
        return logits.gather(-1, labels[:, None]).squeeze(-1).float() - totals

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, labels, totals = ctx.saved_tensors
        target = logits if ctx.inplace_backward else torch.empty_like(logits)
        parts = zip(*(one.split(ctx.rows) for one in (logits, target, labels, totals, gradients[0])), strict=True)
        for chunk, out, label, total, gradient in parts:
            probabilities = (chunk.float() - total[:, None]).exp_()
            probabilities.mul_(-gradient[:, None]).scatter_add_(-1, label[:, None], gradient[:, None].float())
            out.copy_(probabilities)
        return target, None, None
