"""The shape of a model, from the keys of its config.json: how many parameters lie where. No weights are read.

Decoders with gated MLPs are covered: Llama, Qwen2, Qwen3, Qwen3-MoE and their kin. Norm weights and biases are counted
where the architecture has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


@dataclass(frozen=True)
class Shape:
    """Sizes of one decoder. `experts` is 0 for a dense model; `mlp` is the width of one MLP, or of one expert;
    `context` the longest sequence in tokens, where it is known."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    experts: int = 0
    active_experts: int = 0
    context: int | None = None

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def mlp_width(self) -> int:
        """Width of what one token passes through: the MLP, or all its active experts."""
        return self.mlp * (self.active_experts or 1)

    @property
    def down_parameters(self) -> int:
        """Parameters of a layer's down projection, of all its experts."""
        return self.hidden * self.mlp * max(self.experts, 1)

    @property
    def word_parameters(self) -> int:
        """Parameters of the embedding, and of the output layer."""
        return self.vocab * self.hidden

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer, all its experts included."""
        attention = self.hidden * (2 * self.q_width + 2 * self.kv_width)
        attention += (self.q_width + 2 * self.kv_width) * self.qkv_bias + 2 * self.head_dim * self.qk_norm
        router = self.hidden * self.experts
        return attention + 3 * self.hidden * self.mlp * max(self.experts, 1) + router + 2 * self.hidden

    @property
    def outer_parameters(self) -> int:
        """Parameters outside the layers: embedding, output layer (once if they are tied), last norm."""
        return self.vocab * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * self.layer_parameters + self.outer_parameters

    def lora_parameters(self, rank: int) -> int:
        """Adapters of `rank` on every linear of the layers (`all-linear`): rank x (in + out) each.

        Experts of a mixture are fused tensors that peft leaves alone, so there only attention has adapters.
        """
        attention = 4 * self.hidden + 2 * self.q_width + 2 * self.kv_width
        mlp = 0 if self.experts else 3 * (self.hidden + self.mlp)
        return self.layers * rank * (attention + mlp)

    @property
    def largest_tensor(self) -> int:
        """Parameters of the largest single tensor: the embedding, or gate and up of all experts, which transformers fuses."""
        return max(self.word_parameters, 2 * self.experts * self.mlp * self.hidden)

    def largest_adapter(self, rank: int) -> int:
        """Parameters of the largest tensor of the adapters of `rank`."""
        return rank * max(self.hidden, self.q_width, 0 if self.experts else self.mlp)

    def kv_bytes(self, tensor_parallel: int, item: int = 2) -> float:
        """Bytes of the KV cache a token on one GPU; heads are copied where there are fewer than GPUs (vLLM)."""
        return 2 * self.layers * self.head_dim * max(self.kv_heads / tensor_parallel, 1) * item


def shape_of_config(config: Mapping[str, Any]) -> Shape:
    """The shape that the keys of a config.json describe.

    Raises:
        KeyError: a size is missing; the message names it.
    """
    missing = [key for key in NEEDED if not config.get(key)]
    if missing:
        raise KeyError(", ".join(missing))
    heads, kind = config["num_attention_heads"], str(config.get("model_type", ""))
    experts = config.get("num_experts") or config.get("num_local_experts") or 0
    return Shape(
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        mlp=config.get("moe_intermediate_size") or config["intermediate_size"] if experts else config["intermediate_size"],
        vocab=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=kind.startswith("qwen2") or bool(config.get("attention_bias", False)),
        qk_norm=kind.startswith("qwen3"),
        experts=experts,
        active_experts=config.get("num_experts_per_tok") or 0,
        context=config.get("max_position_embeddings"),
    )  # fmt: skip


def shape_of_folder(folder: Path) -> Shape:
    """The shape of a Hugging Face folder.

    Raises:
        KeyError, OSError, ValueError: its config.json lacks a size, is not there, or is not JSON.
    """
    return shape_of_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def known_shape(path: str, base_model: DictConfig) -> Shape | None:
    """The shape of the model at `path`; a folder's own config.json wins. None if it is nowhere."""
    folder = Path(path).expanduser()
    try:
        if (folder / "config.json").is_file():
            return shape_of_folder(folder)
        if base_model.config is not None and str(base_model.path) == path:
            return shape_of_config(base_model.config)
    except (KeyError, OSError, ValueError, TypeError):  # no decoder that the memory model covers
        return None
    return None
