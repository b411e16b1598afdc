"""The shape of a tiny model of the same architecture as a given one: what `config.json` says, with small numbers.

Kept: the model type, tied or untied embeddings, biases, the grouping of query heads on key and value heads, whether the head size
follows from the width, experts where there are some, positions and their scaling. Made small: layers, width, heads, experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LAYERS = 2
HEAD = 32  # vLLM's CPU attention (0.27.1) takes 32, 64, 80 and larger
EXPERTS, CHOSEN = 4, 2
# Lists with an entry a layer, and places of layers: transformers derives them anew from the number of layers.
BY_LAYER = ("layer_types", "max_window_layers", "mlp_only_layers", "no_rope_layers")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def tiny(config: Mapping[str, Any], vocabulary: int) -> dict[str, Any]:
    """The keys of the tiny model's config.json, from those of the original and the size of its tokenizer's vocabulary."""
    heads, grouped = config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"]
    queries = max(1, heads // grouped)  # that share one key and value head
    kept = 1 if queries > 1 else 2
    follows = config.get("head_dim") in (None, config["hidden_size"] // heads)
    width = (queries * kept + (0 if follows else 1)) * HEAD
    small = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": queries * kept,
        "num_key_value_heads": kept,
        "head_dim": HEAD,
        "vocab_size": vocabulary,
        "initializer_range": 0.05,  # about one over the root of the width; the original's is made for widths of thousands
    }
    dropped = {*BY_LAYER, *TOKEN_IDS, "dtype", "torch_dtype", "transformers_version"}
    return {key: value for key, value in config.items() if key not in dropped} | small | _experts(config, width)


def _experts(config: Mapping[str, Any], width: int) -> dict[str, int]:
    """The keys of a mixture of experts, under the names that the architecture has (Qwen-MoE, Mixtral)."""
    small = {"num_experts": EXPERTS, "num_local_experts": EXPERTS, "num_experts_per_tok": CHOSEN,
             "moe_intermediate_size": width, "shared_expert_intermediate_size": width}  # fmt: skip
    return {key: value for key, value in small.items() if key in config}
