"""Rules of VeRL 0.9.1 that stages share: what must be a count, and what must divide.

VeRL asserts them on its workers (verl.utils.config.validate_config, ActorConfig, CriticConfig, verl.workers).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from posttrain_verl.terminal.problem import Problem
from posttrain_verl.verl.settings import ModelSettings, Scorer


def check_divides(key: str, value: int, by: int, unit: str) -> Iterator[Problem]:
    """`by` must divide `value`."""
    if value % by:
        below = value // by * by
        near = f"{below} or {below + by}" if below else str(by)
        yield Problem(f"{key}={value} does not divide by {by} {unit}", f"{key}={near} would")


def check_micro_batch_size(view: ModelSettings | Scorer, total: int, unit: str) -> Iterator[Problem]:
    """The micro batch size must divide the `total` sequences of a device."""
    key, micro = view.key("micro_batch_size"), view.micro_batch_size
    if not isinstance(micro, int) or micro < 1:
        yield Problem(f"{key}={micro}, and dynamic batches are off", f"set it to a divisor of {total}")
    elif total % micro:
        fitting = max(size for size in range(1, min(micro, total) + 1) if total % size == 0)
        yield Problem(f"{key}={micro} does not divide {total} {unit}", f"{key}={fitting} would")


def check_token_budget(view: ModelSettings | Scorer, split: int, longest: int, longest_key: str) -> Iterator[Problem]:
    """GPUs that share a sequence (Ulysses) add up their budgets (verl.workers.engine.utils.prepare_micro_batches).

    Of a model that keeps sequences together in groups, a whole group must fit.
    """
    budget, group = view.token_budget, view.group if isinstance(view, ModelSettings) else 1
    if budget * split < longest * group:
        shared = f" x {split} GPUs that share it" if split > 1 else ""
        least = "one sequence" if group == 1 else f"{group} sequences that stay together"
        what = f"{view.override('token_budget')}{shared} is less than {least} ({longest_key}={longest})"
        yield Problem(what, f"set {view.override('token_budget', -(-longest * group // split))} or more")


def check_sharding(model: ModelSettings, gpus: int, facts: dict[str, Any]) -> Iterator[Problem]:
    """How FSDP shards a model over `gpus`. `facts` is the model's config.json."""
    size = model.fsdp_size
    if isinstance(size, int) and (size == 0 or (0 < size < gpus and gpus % size)):
        what = f"{model.override('fsdp_size')} does not divide {gpus} GPUs"
        yield Problem(what, f"{model.override('fsdp_size', -1)} shards over all")
    yield from check_heads(model.key("sequence_parallel"), model.sequence_parallel, facts)


def check_heads(key: str, split: Any, facts: dict[str, Any]) -> Iterator[Problem]:
    """GPUs that share a sequence share the attention heads out among them."""
    if not isinstance(split, int) or split < 1:
        return
    heads, keys = facts.get("num_attention_heads"), facts.get("num_key_value_heads")
    if heads and heads % split:
        what = f"{key}={split} does not divide the model's {heads} attention heads"
        yield Problem(what, "set it to 1 or a divisor of them")
    if keys and keys % split and split % keys:
        what = f"{key}={split} neither divides the model's {keys} key heads nor is a multiple"
        yield Problem(what, "set it to 1 or a divisor of them")
