"""Which attention each trained model uses, by the keys that VeRL reads. Imports neither torch nor VeRL."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

VARLEN = "varlen"  # ours, posttrain_verl/verl/varlen.py
FLASH = "flash_attention_2"  # what VeRL takes where the key is missing (verl.workers.config.model)
MODELS = {"rl": "actor_rollout_ref.model", "sft": "model"}


def attention_key(model: str) -> str:
    """The key that names the attention of `model`, a node of VeRL's tree."""
    return f"{model}.override_config.attn_implementation"


def attention_of(config: DictConfig, model: str) -> str:
    """The name of the attention of `model`, a node of VeRL's tree."""
    node = OmegaConf.select(config, f"{model}.override_config")
    if not OmegaConf.is_dict(node) or "attn_implementation" not in node:
        return FLASH
    return str(node.attn_implementation or "sdpa")  # VeRL hands null on, and transformers takes sdpa


def exchanges_parts(attention: str) -> bool:
    """Whether GPUs that share a sequence exchange its parts in it: ours, and every one that is called as flash-attn is."""
    return attention == VARLEN or "flash" in attention


def trained_models(stage: str, has_critic: bool) -> Iterator[str]:
    """The nodes of VeRL's tree that describe a trained model."""
    yield MODELS[stage]
    if has_critic:
        yield "critic.model"
