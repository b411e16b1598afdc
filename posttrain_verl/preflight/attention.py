"""What asks for flash-attn on a machine that has none: a worker would fail after the model is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import OmegaConf

from posttrain_verl.compose import Composed
from posttrain_verl.plan import adapt, attention
from posttrain_verl.plan.job import uses_critic
from posttrain_verl.preflight import machine
from posttrain_verl.problem import Problem


def check(composed: Composed) -> list[Problem]:
    """Problems of a run on this machine's GPUs with VeRL's FSDP engines; a CPU needs no flash-attn."""
    if composed.posttrain.hardware.name == "cpu" or not adapt.of_verl(composed.stage, composed.verl):
        return []
    machine.require_here(composed)
    return [] if attention.is_installed() else [*_chosen(composed), *_split(composed), *_critic(composed)]


def _chosen(composed: Composed) -> Iterator[Problem]:
    key = attention.key(composed.stage)
    if (OmegaConf.select(composed.verl, key) or attention.FLASH) == attention.FLASH:
        yield Problem(
            f"{key} is {attention.FLASH}, and flash-attn is not installed", f"{attention.INSTALL}, or +{key}=sdpa"
        )


def _split(composed: Composed) -> Iterator[Problem]:
    """VeRL splits a sequence inside transformers' flash attention alone (verl.models.transformers.monkey_patch)."""
    key = adapt.KEYS[composed.stage]["split"]
    if (OmegaConf.select(composed.verl, key) or 1) > 1:
        yield Problem(f"{key} > 1 needs flash-attn, which is not installed", f"{attention.INSTALL}, or {key}=1")


def _critic(composed: Composed) -> Iterator[Problem]:
    if composed.stage == "rl" and uses_critic(composed.verl):
        what = (
            "the critic needs flash-attn, which is not installed: VeRL 0.9.1 asks for it whatever override_config says"
        )
        yield Problem(what, attention.INSTALL)
