"""Attention that a worker could not run, or would run wrongly: it would fail after the model is loaded, or never."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from posttrain_verl.compose import Composed
from posttrain_verl.plan import adapt
from posttrain_verl.plan.job import uses_critic
from posttrain_verl.preflight import machine, model
from posttrain_verl.problem import Problem, one_of, warning
from posttrain_verl.verl import parallelism
from posttrain_verl.verl.attention import (
    FLASH,
    MODELS,
    VARLEN,
    attention_key,
    attention_of,
    exchanges_parts,
    trained_models,
)

# What varlen refuses at the first forward pass (posttrain_verl/verl/varlen.py), by the keys of config.json.
UNABLE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a soft cap on attention": lambda facts: facts.get("attn_logit_softcapping"),
    "attention sinks": lambda facts: facts.get("model_type") == "gpt_oss",
    "a vision tower": lambda facts: facts.get("vision_config"),
}
# It compiles for the PyTorch that is installed, and so must see it.
INSTALL = "pip install --no-build-isolation --no-deps flash-attn==2.8.3 (needs the CUDA toolkit; docs/gpu.md)"


def check(composed: Composed) -> list[Problem]:
    """Problems of a run with VeRL's FSDP engines; whether flash-attn is installed is asked of this machine only."""
    if not adapt.of_verl(composed.stage, composed.verl):
        return []
    models = list(trained_models(composed.stage, composed.stage == "rl" and uses_critic(composed.verl)))
    found = [problem for name in models for problem in _unsplittable(composed, name)]
    found += [*_too_old(composed, models), *_unable(composed), *_unknown(composed, models)]
    wants_flash = [name for name in models if attention_of(composed.verl, name) == FLASH]
    if wants_flash and composed.posttrain.hardware.name != "cpu":
        if machine.is_here(composed):
            found += _not_installed(wants_flash)
        elif not found:
            machine.require_here(composed)
    return found


def _unsplittable(composed: Composed, name: str) -> Iterator[Problem]:
    """GPUs exchange the parts of a sequence inside these attentions; inside others each would see its own part alone."""
    config, chosen = composed.verl, attention_of(composed.verl, name)
    if name == "critic.model":
        key, split = parallelism.CRITIC_KEY, parallelism.critic_sequence_parallel_size(config)
    else:
        key, split = parallelism.LIVE_KEYS[composed.stage], parallelism.sequence_parallel_size(composed.stage, config)
    if split > 1 and not exchanges_parts(chosen):
        what = f"{key}={split} splits sequences, and attention across the parts does not exist in {chosen}"
        yield Problem(what, f"{attention_key(name)}={VARLEN}, or {key}=1")


def _too_old(composed: Composed, models: list[str]) -> Iterator[Problem]:
    """The kernels of both are for compute capability 8.0 and newer, as bf16 is."""
    node = composed.posttrain.hardware
    if node.name != "cpu" and "bf16" not in node.dtypes:
        for name in models:
            if exchanges_parts(chosen := attention_of(composed.verl, name)):
                key = attention_key(name)
                yield Problem(f"{key}={chosen} needs GPUs of the Ampere generation or newer", f"{key}=sdpa")


def _unable(composed: Composed) -> Iterator[Problem]:
    """Models that ask for what the kernel of `varlen` does not do, by their config.json."""
    key = attention_key(MODELS[composed.stage])
    facts = model.facts(composed)
    asked = [what for what, is_asked in UNABLE.items() if is_asked(facts)]
    if asked and attention_of(composed.verl, MODELS[composed.stage]) == VARLEN:
        yield Problem(f"{composed.model} has {asked[0]}, which {key}={VARLEN} does not do", f"{key}={FLASH}, or eager")


def _unknown(composed: Composed, models: list[str]) -> Iterator[Problem]:
    """A warning only: transformers lets a program register more."""
    for name in models:
        chosen = attention_of(composed.verl, name)
        if chosen not in (VARLEN, "sdpa", "eager", "flex_attention") and "flash" not in chosen and "/" not in chosen:
            known = one_of(chosen, [VARLEN, FLASH, "sdpa", "eager", "flex_attention"])
            yield warning(f"{attention_key(name)}={chosen} is no attention that transformers brings", known)


def _not_installed(models: list[str]) -> Iterator[Problem]:
    if not any(find_spec(package) for package in ("flash_attn", "kernels")):  # kernels fetches it from the hub
        for name in models:
            key = attention_key(name)
            yield Problem(f"{key} is {FLASH}, and flash-attn is not installed", f"{key}={VARLEN}, or {INSTALL}")
