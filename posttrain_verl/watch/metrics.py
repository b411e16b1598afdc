"""The rules on the metrics of a step. Each looks at one line of metrics.jsonl and says what it saw, or nothing.

VeRL's file logger writes a number that is not finite as null. A line that lacks a rule's metrics (a validation is a line of its
own) says nothing for or against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Protocol

Metrics = Mapping[str, Any]
FINE = ""

LOSSES = ("actor/loss", "actor/pg_loss", "critic/vf_loss", "train/loss", "val/loss")
REWARDS = ("critic/score/mean", "critic/rewards/mean")
GRADIENTS = ("actor/grad_norm", "critic/grad_norm", "train/grad_norm")
CORRELATION, KL = "training/rollout_actor_probs_pearson_corr", "rollout_corr/kl"
TEACHER = "distillation/"  # a part of the names of VeRL's metrics of a step with a teacher


class MetricRule(Protocol):
    """`stage` is where a fault of this kind lies, `why` what it means and what to do."""

    stage: str
    why: str

    def see(self, metrics: Metrics) -> str:
        """What is wrong, now that this step is known; an empty text if nothing is."""
        ...


@dataclass
class InARow:
    """Fires in the step in which `sees` found something for the `steps`-th time in a row, and then stays quiet until it ends.

    `sees` returns what it saw, `FINE`, or None for metrics that say nothing.
    """

    steps: int
    sees: Callable[[Metrics], str | None]
    stage: str
    why: str
    _seen: int = field(default=0, init=False)

    def see(self, metrics: Metrics) -> str:
        saw = self.sees(metrics)
        if saw is None:
            return FINE
        self._seen = self._seen + 1 if saw else 0
        if self._seen != self.steps:
            return FINE
        return f"{saw} in {self.steps} steps in a row" if self.steps > 1 else str(saw)


@dataclass
class NotFalling:
    """Fires once, when the mean loss of the last `window` steps is not below that of the first `window`."""

    window: int
    stage: str = "update"
    why: str = "the model does not learn: look at the learning rate, and at what the loss mask leaves"
    _losses: list[float] = field(default_factory=list, init=False)

    def see(self, metrics: Metrics) -> str:
        loss = number(metrics, "train/loss")
        if loss is None:
            return FINE
        self._losses.append(loss)
        if len(self._losses) != 2 * self.window:
            return FINE
        first, last = fmean(self._losses[: self.window]), fmean(self._losses[self.window :])
        return (
            f"train/loss was {first:.4g} in the first {self.window} steps, {last:.4g} after" if last >= first else FINE
        )


def number(metrics: Metrics, key: str) -> float | None:
    """The finite number at `key`, None where there is none."""
    value = metrics.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def non_finite(*keys: str) -> Callable[[Metrics], str | None]:
    """One of the numbers is NaN or infinite."""

    def sees(metrics: Metrics) -> str | None:
        present = [key for key in keys if key in metrics]
        bad = [key for key in present if number(metrics, key) is None]
        return f"{', '.join(bad)} not finite" if bad else FINE if present else None

    return sees


def zero_gradient(metrics: Metrics) -> str | None:
    """A gradient norm of exactly 0; without advantages it must be so, and `no_variance` speaks of that."""
    norms = {key: norm for key in GRADIENTS if (norm := number(metrics, key)) is not None}
    if not norms:
        return None
    zero = [key for key, norm in norms.items() if norm == 0]
    return f"{', '.join(zero)} is exactly 0" if zero and not no_advantage(metrics) else FINE


def zero_loss(metrics: Metrics) -> str | None:
    loss = number(metrics, "train/loss")
    return None if loss is None else "train/loss is exactly 0" if loss == 0 else FINE


def no_advantage(metrics: Metrics) -> bool | None:
    """Whether every advantage is 0, since within each group all rewards were equal; None for metrics without advantages."""
    most, least = number(metrics, "critic/advantages/max"), number(metrics, "critic/advantages/min")
    return None if most is None or least is None else most == least == 0


def no_variance(solved: float) -> Callable[[Metrics], str | None]:
    """Nothing tells the rollouts of a group apart.

    A mean reward of `solved` or more is the end of a task, not a fault: `reward_saturated` speaks of it. A step that learns
    from a teacher needs no advantages.
    """

    def sees(metrics: Metrics) -> str | None:
        empty, reward = no_advantage(metrics), number(metrics, REWARDS[0])
        if empty is None or any(TEACHER in key for key in metrics):
            return None
        is_fault = empty and (reward is None or reward < solved)
        return f"every advantage is 0 (reward {_shown(metrics, REWARDS[0])})" if is_fault else FINE

    return sees


def compared(key: str, bad: Callable[[float], bool], word: str) -> Callable[[Metrics], str | None]:
    """A condition on one number."""

    def sees(metrics: Metrics) -> str | None:
        value = number(metrics, key)
        return None if value is None else f"{key} {value:.4g} ({word})" if bad(value) else FINE

    return sees


def mismatch(correlation_below: float, kl_above: float, entropy_above: float) -> Callable[[Metrics], str | None]:
    """Rollout and actor disagree on the probabilities of the same tokens.

    Below an entropy of `entropy_above` nats a token nearly all probabilities are 1, and what correlates is their rounding.
    """

    def sees(metrics: Metrics) -> str | None:
        correlation, kl, entropy = (number(metrics, key) for key in (CORRELATION, KL, "actor/entropy"))
        if correlation is None and kl is None:
            return None
        is_rounding = entropy is not None and entropy <= entropy_above
        low = correlation is not None and correlation < correlation_below and not is_rounding
        bad = [f"{CORRELATION} {correlation:.3f}"] if low else []
        bad += [f"{KL} {kl:.3g}"] if kl is not None and abs(kl) > kl_above else []
        return ", ".join(bad)

    return sees


def _shown(metrics: Metrics, key: str) -> str:
    value = number(metrics, key)
    return "unknown" if value is None else f"{value:.4g}"


def rules(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, MetricRule]:
    """The rules on metrics, by name, with the thresholds of `posttrain.watch`; those that are off are left out."""
    made = {name: make(settings[name]) for name, make in _RULES.items() if settings[name]["do"] != "off"}
    return dict(made)


def _above(key: str, threshold: float) -> Callable[[Metrics], str | None]:
    return compared(key, lambda value: value > threshold, f"more than {threshold:g}")


def _at_least(key: str, threshold: float) -> Callable[[Metrics], str | None]:
    return compared(key, lambda value: value >= threshold, f"{threshold:g} or more")


def _at_most(key: str, threshold: float) -> Callable[[Metrics], str | None]:
    return compared(key, lambda value: value <= threshold, f"{threshold:g} or less")


def _below(key: str, threshold: float) -> Callable[[Metrics], str | None]:
    return compared(key, lambda value: value < threshold, f"less than {threshold:g}")


_RULES: dict[str, Callable[[Mapping[str, Any]], MetricRule]] = {
    "non_finite": lambda s: InARow(
        s["steps"], non_finite(*LOSSES, *REWARDS), "update",
        "the numbers are broken: lower the learning rate, look at the data of this step"),
    "non_finite_gradient": lambda s: InARow(
        s["steps"], non_finite(*GRADIENTS), "update",
        "VeRL skips such steps, so nothing is trained: lower the learning rate, look at the data of these steps"),
    "zero_gradient": lambda s: InARow(
        s["steps"], zero_gradient, "update", "nothing is trained: frozen weights, an all-masked batch, or clipping at 0"),
    "sft_zero_loss": lambda s: InARow(
        s["steps"], zero_loss, "update", "the loss mask leaves no token: look at the chat template and data.max_length"),
    "sft_not_falling": lambda s: NotFalling(s["window"]),
    "no_variance": lambda s: InARow(
        s["steps"], no_variance(s["solved"]), "reward",
        "no group has two different rewards, so nothing is learned: too hard or too easy a task, or a constant grader"),
    "reward_zero": lambda s: InARow(
        s["steps"], _at_most(REWARDS[0], s["at_most"]), "reward",
        "no answer is graded right: too hard a task, a format the grader does not read, or too short responses"),
    "reward_saturated": lambda s: InARow(
        s["steps"], _at_least(REWARDS[0], s["at_least"]), "reward", "the task is solved: take harder data, or stop here"),
    "entropy_collapse": lambda s: InARow(
        s["steps"], _below("actor/entropy", s["below"]), "update",
        "the policy explores no more: lower the learning rate, raise clip_ratio_high or the entropy coefficient"),
    "length_at_cap": lambda s: InARow(
        s["steps"], _at_least("response_length/clip_ratio", s["at_least"]), "generation",
        "most responses are cut off: raise data.max_response_length, or see whether the model emits its end token"),
    "mismatch": lambda s: InARow(
        s["steps"], mismatch(s["correlation_below"], s["kl_above"], s["entropy_above"]), "weight sync",
        "the rollouts do not come from the policy that is trained: weights not updated, or precisions too far apart"),
    "verifier_errors": lambda s: InARow(
        s["steps"], _above("reward/verifier_error/mean", s["above"]), "reward",
        "the verifier fails, which is no wrong answer: its logs and limits first"),
}  # fmt: skip
