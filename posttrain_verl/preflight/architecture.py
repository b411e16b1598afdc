"""Whether the installed vLLM can build the model at all: it would say so minutes later, on a worker."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from posttrain_verl import vllm_models
from posttrain_verl.compose import Composed
from posttrain_verl.preflight import model
from posttrain_verl.problem import Problem


def check(composed: Composed) -> list[Problem]:
    """What vLLM would fail on; SFT starts no vLLM, and a rollout of another engine is not looked at."""
    if composed.stage != "rl" or composed.verl.actor_rollout_ref.rollout.name != "vllm":
        return []
    facts = model.facts(composed)
    overrides = OmegaConf.select(composed.verl, "actor_rollout_ref.rollout.engine_kwargs.vllm.hf_overrides") or {}
    return vllm_models.unbuildable({**facts, **overrides}, _longest(composed, facts))


def _longest(composed: Composed, facts: dict[str, Any]) -> int:
    """Tokens of the longest sequence that vLLM is told to hold: without `max_model_len` the model's whole context."""
    given = composed.verl.actor_rollout_ref.rollout.max_model_len
    return int(given or facts.get("max_position_embeddings") or 0)
