"""The log-probability of each token from its logits, in the memory of the logits.

VeRL takes it with flash-attn's cross entropy. Without flash-attn VeRL works through a packed batch token by token, and
keeps a second tensor as large as the logits. This does what flash-attn's kernel does, with PyTorch alone: the forward pass
keeps one number a token, the backward pass writes the gradient over the logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
