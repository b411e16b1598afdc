"""The moments of a training step at which most is in memory: what is there together, and what never is.

FSDP gathers one part of the model at a time and reduces its gradient before it goes on. So the logits, the layer that is
computed again and the gradient of the embedding never meet. Each moment lists what lives in it beside the sharded
weights, gradients and optimizer; the largest moment is what the update needs.

Found and checked with torch's FSDPMemTracker (benchmarks/plan_tracker.py), which runs FSDP2 as VeRL 0.9.1 wraps it
(verl.utils.fsdp_utils.apply_fsdp2): each layer for itself, embedding and output layer for themselves unless they are tied,
everything resharded after its forward pass. FSDP1 keeps embedding and output layer together with the root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from posttrain_verl.plan import activations
from posttrain_verl.plan.job import Trained

KORTHIKANTI = "Korthikanti et al. 2022 (arXiv 2205.05198)"
FSDP = "PyTorch FSDP, Zhao et al. 2023 (arXiv 2304.11277); torch's FSDPMemTracker"
VERL = "VeRL 0.9.1, verl/workers/engine/fsdp and engine_workers"
SDPA = "transformers, sdpa_mask and repeat_kv; torch's attention turns the mask into the compute type"


@dataclass(frozen=True)
class Part:
    """Something that is in memory at a moment."""

    name: str
    bytes: float
    formula: str
    source: str


@dataclass(frozen=True)
class Moment:
    """A moment and what is there only then."""

    name: str
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> float:
        return sum(part.bytes for part in self.parts)


def largest(model: Trained) -> Moment:
    """The moment of a training step that needs most."""
    moments = (_loss(model), _output_layer(model), _last_layer(model), _embedding(model))
    return max(moments, key=lambda moment: moment.bytes)


def forward(model: Trained) -> Part:
    """The pass that only takes log-probabilities: at the output layer, or where no logits are made in a layer."""
    shape, item, words = model.shape, model.compute_bytes, model.shape.word_parameters
    gathered = item * words * (2 if model.shard > 1 else 1)
    if not model.outer_apart:
        gathered = item * (shape.outer_parameters + (shape.layer_parameters if model.shard > 1 else 0))
    logits, layer = shape.vocab * model.logit_bytes[1], activations.layer(shape, item)
    tokens = max(logits + 2 * item * shape.hidden, layer)
    mask = model.mask_pairs(model.forward_tokens) * (1 + item)
    formula = f"{model.forward_tokens} tokens x {tokens / 1024:.0f} KiB + gathered output layer"
    return Part("log-probabilities", model.forward_tokens * tokens + gathered + mask, formula, VERL)


def _loss(model: Trained) -> Moment:
    """The loss and its gradient, before the output layer's backward pass: logits in all their copies."""
    held = 0 if model.fsdp2 else model.shape.outer_parameters
    return Moment("the loss", (
        _gathered(model, held, "embedding and output layer" if held else ""),
        _activations(model, _kept(model), ""),
        _logits(model, model.logit_bytes[0]),
        *_mask(model, again=False),
    ))  # fmt: skip


def _output_layer(model: Trained) -> Moment:
    """The output layer's backward pass: logits, its gradient, and the last layer gathered ahead."""
    shape = model.shape
    outer = shape.word_parameters if model.outer_apart else shape.outer_parameters
    ahead = shape.layer_parameters if model.shard > 1 else 0
    return Moment("the output layer", (
        _gathered(model, outer + ahead, "output layer + the next layer"),
        _gradients(model, model.compute_bytes * shape.word_parameters, f"output layer x {model.compute_bytes} bytes"),
        _activations(model, _kept(model) + model.compute_bytes * shape.hidden, ""),
        _logits(model, model.compute_bytes if model.logit_bytes[0] else 0),
        *_mask(model, again=False),
    ))  # fmt: skip


def _last_layer(model: Trained) -> Moment:
    """The MLP's backward pass in the last layer, while the gradient of what came before is being reduced in fp32."""
    shape, item, split = model.shape, model.compute_bytes, model.shard > 1
    held = 0 if model.outer_apart else shape.outer_parameters
    each = activations.layers(shape, item, model.checkpointing) + activations.mlp_gradients(shape, item)
    again = (
        (activations.layer(shape, item) + _repeated(model)) if model.checkpointing else shape.layers * _repeated(model)
    )
    waiting = 4 * max(shape.word_parameters if model.outer_apart else 0, shape.layer_parameters) * split
    waiting += item * held
    return Moment("the last layer", (
        _gathered(model, held + shape.layer_parameters * (1 + split), "this layer + the next" if split else "this layer"),
        _gradients(model, item * shape.down_parameters + waiting, "down projection + what is being reduced x 4 bytes"),
        _activations(model, each + again, "with its MLP's gradients"),
        *_mask(model, again=True),
    ))  # fmt: skip


def _embedding(model: Trained) -> Moment:
    """The end of the backward pass: a tied embedding has two gradients and their sum, another is reduced in fp32."""
    shape, item, split = model.shape, model.compute_bytes, model.shard > 1
    gradients = 3 * item * shape.outer_parameters + 4 * shape.layer_parameters * split
    formula = f"embedding: two gradients and their sum x {item} bytes + a layer x 4"
    held = shape.outer_parameters
    if model.outer_apart:
        gradients, formula = (item + 4 * split) * shape.word_parameters, f"embedding x {item} bytes + x 4"
        held = 0
    return Moment("the embedding", (
        _gathered(model, held, "embedding" if held else ""),
        _gradients(model, gradients, formula),
        _activations(model, item * shape.hidden, ""),
    ))  # fmt: skip


def _kept(model: Trained) -> float:
    """Bytes a token that the forward pass leaves behind."""
    shape, item = model.shape, model.compute_bytes
    repeated = 0 if model.checkpointing else shape.layers * _repeated(model)
    return activations.layers(shape, item, model.checkpointing) + activations.outer(shape, item) + repeated


def _repeated(model: Trained) -> float:
    return activations.repeated_heads(model.shape, model.compute_bytes) if model.dense_mask else 0


def _gathered(model: Trained, parameters: float, what: str) -> Part:
    if not model.reshards:
        parameters, what = model.shape.parameters, "all layers (reshard_after_forward=false)"
    return Part("gathered layers", parameters * model.compute_bytes, f"{what} x {model.compute_bytes} bytes", FSDP)


def _gradients(model: Trained, size: float, what: str) -> Part:
    return Part("unreduced gradients", 0 if model.lora_rank else size, what, FSDP)


def _activations(model: Trained, each: float, more: str) -> Part:
    how = "layer inputs" if model.checkpointing else f"{model.shape.layers} layers"
    formula = f"{model.tokens} tokens x {each / 1024:.0f} KiB ({how}{' and this layer ' + more if more else ''})"
    return Part("activations", model.tokens * each, formula, KORTHIKANTI)


def _logits(model: Trained, each: float) -> Part:
    formula = f"{model.tokens} tokens x {model.shape.vocab} words x {each:g} bytes"
    return Part("logits", model.tokens * model.shape.vocab * each, formula, VERL)


def _mask(model: Trained, again: bool) -> Iterator[Part]:
    """The dense mask of sdpa: one byte a pair of tokens, and in the compute type for each layer whose attention is kept."""
    layers = int(again) if model.checkpointing else model.shape.layers
    pairs, copies = model.mask_pairs(model.tokens), 1 + model.compute_bytes * layers
    if pairs:
        yield Part("attention mask", pairs * copies, f"{pairs / 1e6:.0f} M pairs of tokens x {copies} bytes", SDPA)
