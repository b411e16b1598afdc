"""The `verl.plugins` entry point for every platform: packed rows without flash-attn, and a folder that is not TRL.

VeRL imports this module while `verl` itself is imported. Without flash-attn VeRL 0.9.1 cannot attend within packed rows at
flash-attn's cost, cannot load a critic, and takes log-probabilities token by token.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import wrapt

from posttrain_verl.verl.patching import Patch, apply_on_import, patch


@patch(
    "verl.utils.torch_functional",
    "logprobs_from_logits",
    parameters=("logits", "labels", "inplace_backward"),
    needed_by="verl 0.9.1 takes log-probabilities one token at a time without flash-attn, in 6 bytes a logit",
)
def frugal_log_probabilities(original: Callable[..., Any]) -> Callable[..., Any]:
    def logprobs_from_logits(logits: Any, labels: Any, inplace_backward: bool = True) -> Any:
        from verl.utils import torch_functional

        from posttrain_verl.verl.packed_rows import log_probabilities

        if torch_functional.FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE:
            return original(logits, labels, inplace_backward)
        return log_probabilities(logits, labels, inplace_backward)

    return logprobs_from_logits


@patch(
    "verl.utils.model",
    "load_valuehead_model",
    parameters=("local_path", "torch_dtype", "model_config", "trust_remote_code"),
    needed_by="verl 0.9.1 asks for flash_attention_2 whatever the model's override_config says",
)
def critic_with_configured_attention(original: Callable[..., Any]) -> Callable[..., Any]:
    def load_valuehead_model(local_path: str, torch_dtype: Any, model_config: Any, trust_remote_code: bool) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification.from_pretrained(
            local_path,
            dtype=torch_dtype,
            config=model_config,
            attn_implementation=model_config._attn_implementation or "sdpa",
            trust_remote_code=trust_remote_code,
        )

    return load_valuehead_model


@patch(
    "verl.utils.model",
    "update_model_config",
    parameters=("module_config", "override_config_kwargs"),
    needed_by="verl 0.9.1 writes the attention into config.json of each checkpoint, which no other program could then load",
)
def attention_stays_out_of_checkpoints(original: Callable[..., None]) -> Callable[..., None]:
    def update_model_config(module_config: Any, override_config_kwargs: dict[str, Any]) -> None:
        kept = {key: value for key, value in override_config_kwargs.items() if key != "attn_implementation"}
        original(module_config, kept)

    return update_model_config


@patch(
    "verl.utils.import_utils",
    "is_trl_available",
    parameters=(),
    needed_by="verl 0.9.1 takes a folder named trl in the current one for TRL, and fails; TRL names its outputs so",
)
def trl_is_a_package(_: Callable[[], bool]) -> Callable[[], bool]:
    def is_trl_available() -> bool:
        found = find_spec("trl")
        return found is not None and found.origin is not None  # a folder without __init__.py has none

    return is_trl_available


PATCHES: list[Patch] = [
    frugal_log_probabilities,
    critic_with_configured_attention,
    attention_stays_out_of_checkpoints,
    trl_is_a_package,
]


apply_on_import(PATCHES)
# By its dotted name: packed_rows imports torch.
wrapt.register_post_import_hook("posttrain_verl.verl.packed_rows:register_varlen", "transformers.modeling_utils")
