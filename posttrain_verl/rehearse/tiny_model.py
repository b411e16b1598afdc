"""Build a rehearsal's model: `python -m posttrain_verl.rehearse.tiny_model FOLDER MODEL [SHAPE]`.

MODEL is a folder or a hub id, SHAPE its config.json as JSON, for when neither the folder nor the hub's cache has one.
The tokenizer is the model's own where it is at hand, else the byte-level one of the embedded models. Asks no network.

Kept of the original: the model type, tied or untied embeddings, biases, the grouping of query heads on key and value
heads, whether the head size follows from the width, experts where there are some, positions and their scaling. Made
small: layers, width, heads, experts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from posttrain_verl.base_models.random_qwen2 import VOCABULARY, byte_level_tokenizer

LAYERS = 2
HEAD_SIZE = 32  # vLLM's CPU attention (0.27.1) takes 32, 64, 80 and larger
EXPERTS, EXPERTS_PER_TOKEN = 4, 2
# Lists with an entry a layer, and places of layers: transformers derives them anew from the number of layers.
BY_LAYER = ("layer_types", "max_window_layers", "mlp_only_layers", "no_rope_layers")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def tiny_config(config: Mapping[str, Any], vocabulary: int) -> dict[str, Any]:
    """The keys of the tiny model's config.json, from those of the original and the size of its tokenizer's vocabulary."""
    heads, grouped = config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"]
    queries = max(1, heads // grouped)  # that share one key and value head
    kept = 1 if queries > 1 else 2
    follows = config.get("head_dim") in (None, config["hidden_size"] // heads)
    width = (queries * kept + (0 if follows else 1)) * HEAD_SIZE
    small = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": queries * kept,
        "num_key_value_heads": kept,
        "head_dim": HEAD_SIZE,
        "vocab_size": vocabulary,
        "initializer_range": 0.05,  # about one over the root of the width; the original's is made for widths of thousands
    }
    # The keys of a mixture of experts, under the names that the architecture has (Qwen-MoE, Mixtral).
    experts = {"num_experts": EXPERTS, "num_local_experts": EXPERTS, "num_experts_per_tok": EXPERTS_PER_TOKEN,
               "moe_intermediate_size": width, "shared_expert_intermediate_size": width}  # fmt: skip
    small |= {key: value for key, value in experts.items() if key in config}
    dropped = {*BY_LAYER, *TOKEN_IDS, "dtype", "torch_dtype", "transformers_version"}
    return {key: value for key, value in config.items() if key not in dropped} | small


def build_model(folder: Path, model: str, shape: dict[str, Any] | None) -> dict[str, Any]:
    """Write the tiny model to `folder`; returns where its parts came from, for the report.

    Raises:
        OSError: there is neither a config.json at hand nor a `shape`.
    """
    try:
        config, config_from = AutoConfig.from_pretrained(model, local_files_only=True).to_dict(), model
    except OSError:
        if shape is None:
            raise
        config, config_from = shape, "conf/base_model"
    tokenizer: PreTrainedTokenizerBase
    try:
        tokenizer, tokenizer_from = AutoTokenizer.from_pretrained(model, local_files_only=True), model
        vocabulary = max(config["vocab_size"], len(tokenizer))
    except OSError:
        tokenizer, tokenizer_from = byte_level_tokenizer(config.get("max_position_embeddings", 32768)), "byte-level"
        vocabulary = VOCABULARY
    small = AutoConfig.for_model(**tiny_config(config, vocabulary))
    for key in TOKEN_IDS:
        setattr(small, key, getattr(tokenizer, key))
    torch.manual_seed(20260801)
    network = AutoModelForCausalLM.from_config(small, dtype=torch.float32)
    network.generation_config = GenerationConfig(eos_token_id=small.eos_token_id, pad_token_id=small.pad_token_id)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"architecture": type(network).__name__, "parameters": network.num_parameters(),
            "config": config_from, "tokenizer": tokenizer_from}  # fmt: skip


if __name__ == "__main__":
    folder, model, *shape = sys.argv[1:]
    print(json.dumps(build_model(Path(folder), model, json.loads(shape[0]) if shape else None)))
