"""Bytes of what a forward pass keeps for its backward pass: Korthikanti et al. 2022, for the layers that VeRL trains.

The paper (arXiv 2205.05198, equation 1) counts 34 s b h for GPT-3's layer. Here the same counting is done for a gated MLP,
RMSNorm and flash attention as transformers writes them: RMSNorm computes in fp32 and keeps its input and its normalised
output, attention keeps q, k, v and its result, the MLP four tensors of its width.
"""

from __future__ import annotations

from posttrain_verl.plan.shape import Shape


def layer(shape: Shape, item: int = 2) -> float:
    """Bytes a token that one decoder layer keeps, in a compute type of `item` bytes."""
    norms = 2 * (4 + item) * shape.hidden + (4 + item) * (shape.q_width + shape.kv_width) * shape.qk_norm
    inputs = 2 * item * shape.hidden
    attention = item * 2 * (shape.q_width + shape.kv_width) + 4 * shape.heads
    width = shape.mlp * (shape.active_experts or 1)
    routed = item * shape.hidden * shape.active_experts * 2
    return norms + inputs + attention + 4 * item * width + routed


def outer(shape: Shape, item: int = 2) -> float:
    """Bytes a token kept outside the layers: the last norm and the input of the output layer. Logits are not in it."""
    return (4 + 2 * item) * shape.hidden


def kept(shape: Shape, item: int = 2, checkpointing: bool = True) -> float:
    """Bytes a token at the peak: every layer, or with checkpointing the inputs of all and one layer computed again."""
    if checkpointing:
        return shape.layers * item * shape.hidden + layer(shape, item) + outer(shape, item)
    return shape.layers * layer(shape, item) + outer(shape, item)
