"""The longest sequence that the rollout engine must hold: VeRL leaves it to the model's whole context unless told.

vLLM does not start where its cache cannot hold one sequence of `max_model_len` tokens, and a model's context is often many
times what a recipe samples.
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

KEY = "actor_rollout_ref.rollout.max_model_len"


def fill_max_model_len(tree: DictConfig, user_keys: frozenset[str]) -> None:
    """Set the key to the longest sequence, unless the recipe or the user has set it; null of the user's stays null."""
    node = OmegaConf.select(tree, "actor_rollout_ref.rollout")
    if KEY in user_keys or not OmegaConf.is_dict(node) or "max_model_len" not in node:  # SFT, or no tree of VeRL's form
        return
    if node.max_model_len is None:
        node.max_model_len = longest_rollout(tree)


def follow_lengths(config: DictConfig, before: DictConfig) -> None:
    """Set the key anew in `config`, the config of `before` with other lengths, if it was the longest sequence before."""
    old = OmegaConf.select(before, KEY)
    if old is not None and old == OmegaConf.select(config, KEY) == longest_rollout(before):
        OmegaConf.update(config, KEY, longest_rollout(config))


def longest_rollout(config: DictConfig) -> int | None:
    """Tokens of the longest prompt and its response; None where these are no numbers, which preflight reports.

    VeRL 0.9.1 counts all turns of a conversation as one response and ends it at `data.max_response_length`. It looks
    before it appends a turn of a simulated user (ToolAgentLoop), so there one more response must fit.
    """
    prompt, response = (OmegaConf.select(config, f"data.max_{part}_length") for part in ("prompt", "response"))
    if not isinstance(prompt, int) or not isinstance(response, int):
        return None
    has_user = OmegaConf.select(config, "actor_rollout_ref.rollout.multi_turn.interaction_config_path")
    return prompt + response * (2 if has_user else 1)
