"""Whether the installed vLLM can build the model at all: it would say so minutes later, on a worker."""

from __future__ import annotations

import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posttrain_verl import vllm_models
from posttrain_verl.compose import Composed
from posttrain_verl.preflight import machine, model
from posttrain_verl.problem import Problem, warning


def check(composed: Composed) -> list[Problem]:
    """What vLLM would fail on; SFT starts no vLLM, and a rollout of another engine is not looked at."""
    if composed.stage != "rl" or composed.verl.actor_rollout_ref.rollout.name != "vllm":
        return []
    facts = model.facts(composed)
    found = vllm_models.unbuildable({**facts, **_overrides(composed)}, _longest(composed, facts))
    if machine.is_here(composed):
        return found
    return [warning(f"{problem.what}; that machine may have another vLLM", problem.remedy) for problem in found]


def _overrides(composed: Composed) -> dict[str, Any]:
    """The keys of config.json that the rollout's vLLM gets anew: a mapping, or its JSON. vLLM says what is wrong with another."""
    given = OmegaConf.select(composed.verl, "actor_rollout_ref.rollout.engine_kwargs.vllm.hf_overrides")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return {}
    return {str(key): value for key, value in given.items()} if isinstance(given, dict | DictConfig) else {}


def _longest(composed: Composed, facts: dict[str, Any]) -> int:
    """Tokens of the longest sequence that vLLM is told to hold: without `max_model_len` the model's whole context."""
    given = composed.verl.actor_rollout_ref.rollout.max_model_len
    return int(given or facts.get("max_position_embeddings") or 0)
