"""Bytes a token of what a forward pass keeps for its backward pass: Korthikanti et al. 2022, for the layers that VeRL trains.

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
    routed = item * shape.hidden * shape.active_experts * 2
    return norms + inputs + attention + 4 * item * shape.mlp_width + routed


def outer(shape: Shape, item: int = 2) -> float:
    """Bytes a token kept outside the layers: the last norm and the input of the output layer. Logits are not in it."""
    return (4 + 2 * item) * shape.hidden


def layers(shape: Shape, item: int = 2, checkpointing: bool = True) -> float:
    """Bytes a token that all layers keep; with checkpointing only their inputs."""
    return shape.layers * (item * shape.hidden if checkpointing else layer(shape, item))


def mlp_gradients(shape: Shape, item: int = 2) -> float:
    """Bytes a token that the backward pass of an MLP adds at its largest: three gradients of its width and one of its result
    come, the product of gate and up goes; one more of the layer's result is there."""
    return item * (3 - 1) * shape.mlp_width + 2 * item * shape.hidden


def repeated_heads(shape: Shape, item: int = 2) -> float:
    """Bytes a token that a layer keeps more under sdpa with a mask: keys and values are copied for each query head."""
    return 2 * item * (shape.q_width - shape.kv_width)
