"""flash-attn: VeRL 0.9.1 asks for it unless told otherwise, and no lock has it, since it is compiled where it runs."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

FLASH = "flash_attention_2"  # VeRL's default (verl.workers.config.model)
MODELS = {"rl": "actor_rollout_ref.model", "sft": "model"}
INSTALL = "pip install 'posttrain_verl[gpu,flash]', which needs the CUDA toolkit"


def is_installed() -> bool:
    """Whether transformers finds its kernels: in flash-attn, or in `kernels`, which fetches them from the hub."""
    return any(find_spec(package) for package in ("flash_attn", "kernels"))


def key(stage: str) -> str:
    """The key that names the attention of the trained model and its reference."""
    return f"{MODELS[stage]}.override_config.attn_implementation"


def settings(stage: str) -> list[tuple[str, Any, str]]:
    """What a detected GPU needs where flash-attn is missing: PyTorch's own attention, which takes packed rows, too.

    The mask of packed rows is then a matrix, so attention costs the square of a micro batch's tokens.
    """
    return [] if is_installed() else [(key(stage), "sdpa", f"flash-attn is not installed; faster with it: {INSTALL}")]
