"""Attention that a worker could not run, or would run wrongly: it would fail after the model is loaded, or never."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from posttrain_verl.compose import Composed
from posttrain_verl.plan import adapt
from posttrain_verl.plan.job import uses_critic
from posttrain_verl.preflight import machine
from posttrain_verl.problem import Problem
from posttrain_verl.verl import parallelism
from posttrain_verl.verl.attention import FLASH, VARLEN, attention_key, attention_of, trained_models

# It compiles for the PyTorch that is installed, and so must see it.
INSTALL = "pip install --no-build-isolation --no-deps flash-attn==2.8.3 (needs the CUDA toolkit; docs/gpu.md)"


def check(composed: Composed) -> list[Problem]:
    """Problems of a run with VeRL's FSDP engines; whether flash-attn is installed is asked of this machine only."""
    if not adapt.of_verl(composed.stage, composed.verl):
        return []
    models = list(trained_models(composed.stage, composed.stage == "rl" and uses_critic(composed.verl)))
    found = [problem for model in models for problem in _unsplittable(composed, model)]
    found += _too_old(composed, models)
    wants_flash = [model for model in models if attention_of(composed.verl, model) == FLASH]
    if wants_flash and composed.posttrain.hardware.name != "cpu":
        machine.require_here(composed)
        found += _not_installed(wants_flash)
    return found


def _unsplittable(composed: Composed, model: str) -> Iterator[Problem]:
    """GPUs exchange the parts of a sequence inside these attentions; inside others each would see its own part alone."""
    config, chosen = composed.verl, attention_of(composed.verl, model)
    if model == "critic.model":
        key, split = parallelism.CRITIC_KEY, parallelism.critic_sequence_parallel_size(config)
    else:
        key, split = parallelism.LIVE_KEYS[composed.stage], parallelism.sequence_parallel_size(composed.stage, config)
    if split > 1 and chosen not in (VARLEN, FLASH):
        what = f"{key}={split} splits sequences, and attention across the parts does not exist in {chosen}"
        yield Problem(what, f"{attention_key(model)}={VARLEN}, or {key}=1")


def _too_old(composed: Composed, models: list[str]) -> Iterator[Problem]:
    """The kernels of both are for compute capability 8.0 and newer, as bf16 is."""
    node = composed.posttrain.hardware
    if node.name != "cpu" and "bf16" not in node.dtypes:
        for model in models:
            if (chosen := attention_of(composed.verl, model)) in (VARLEN, FLASH):
                key = attention_key(model)
                yield Problem(f"{key}={chosen} needs GPUs of the Ampere generation or newer", f"{key}=sdpa")


def _not_installed(models: list[str]) -> Iterator[Problem]:
    if not any(find_spec(package) for package in ("flash_attn", "kernels")):  # kernels fetches it from the hub
        for model in models:
            key = attention_key(model)
            yield Problem(f"{key} is {FLASH}, and flash-attn is not installed", f"{key}={VARLEN}, or {INSTALL}")
