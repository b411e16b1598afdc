"""Build a rehearsal's model: `python -m posttrain_verl.rehearsal.tiny_model FOLDER MODEL [SHAPE]`.

MODEL is a folder or a hub id, SHAPE its config.json as JSON, for when neither the folder nor the hub's cache has one. The
tokenizer is the model's own where it is at hand, else the byte-level one of the embedded models. Asks no network.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from posttrain_verl.base_models.byte_level import VOCABULARY, byte_level_tokenizer
from posttrain_verl.rehearsal.shape import tiny

SEED = 20260801


def build(folder: Path, model: str, shape: dict[str, Any] | None) -> dict[str, Any]:
    """Write the tiny model to `folder`; returns where its parts came from, for the report.

    Raises:
        OSError: there is neither a config.json at hand nor a `shape`.
    """
    config, config_from = _config(model, shape)
    positions = config.get("max_position_embeddings", 32768)
    tokenizer, tokenizer_from, vocabulary = _tokenizer(model, config["vocab_size"], positions)
    small = AutoConfig.for_model(**tiny(config, vocabulary))
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(small, key, getattr(tokenizer, key))
    torch.manual_seed(SEED)
    network = AutoModelForCausalLM.from_config(small, dtype=torch.float32)
    network.generation_config = GenerationConfig(eos_token_id=small.eos_token_id, pad_token_id=small.pad_token_id)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"architecture": type(network).__name__, "parameters": network.num_parameters(),
            "config": config_from, "tokenizer": tokenizer_from}  # fmt: skip


def _config(model: str, shape: dict[str, Any] | None) -> tuple[dict[str, Any], str]:
    """The original's config.json with every default, and where it was found."""
    try:
        return AutoConfig.from_pretrained(model, local_files_only=True).to_dict(), model
    except OSError:
        if shape is None:
            raise
        return shape, "conf/base_model"


def _tokenizer(model: str, vocabulary: int, positions: int) -> tuple[PreTrainedTokenizerBase, str, int]:
    """The tokenizer, where it came from, and the ids that the embedding needs."""
    try:
        own = AutoTokenizer.from_pretrained(model, local_files_only=True)
    except OSError:
        return byte_level_tokenizer(positions), "byte-level", VOCABULARY
    return own, model, max(vocabulary, len(own))


def main() -> None:
    folder, model, *shape = sys.argv[1:]
    print(json.dumps(build(Path(folder), model, json.loads(shape[0]) if shape else None)))


if __name__ == "__main__":
    main()
