"""The rules on the metrics of a step. Each reads one line of metrics.jsonl and says what it saw, or nothing.

VeRL's file logger writes a number that is not finite as null. A line without a rule's metrics, e.g. that of a validation, does
not count for or against it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Protocol

from posttrain_verl.verl import metrics as names
from posttrain_verl.verl.stage import Settings

Metrics = Mapping[str, Any]
FINE = ""

REWARD, LOSS = names.REWARD.key, names.TRAINING_LOSS.key
# The name of a threshold in a rule's settings, when a number lies beyond it, and the wording of that.
_BEYOND: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "above": (operator.gt, "more than {:g}"), "at_least": (operator.ge, "{:g} or more"),
    "at_most": (operator.le, "{:g} or less"), "below": (operator.lt, "less than {:g}"),
}  # fmt: skip


class MetricRule(Protocol):
    """`activity` is what the trainer does where such a fault lies, `why` what it means and what to do."""

    activity: str
    why: str

    def find_fault(self, metrics: Metrics) -> str:
        """What is wrong after this step; empty if nothing is."""


@dataclass
class InARow:
    """Fires when `sees` finds something in the `steps`-th step in a row, and then stays quiet until the row ends.

    `sees` returns what it saw, `FINE`, or None for metrics that do not count.
    """

    steps: int
    sees: Callable[[Metrics], str | None]
    activity: str
    why: str
    _seen: int = field(default=0, init=False)

    def find_fault(self, metrics: Metrics) -> str:
        saw = self.sees(metrics)
        if saw is None:
            return FINE
        self._seen = self._seen + 1 if saw else 0
        if self._seen != self.steps:
            return FINE
        return f"{saw} in {self.steps} steps in a row" if self.steps > 1 else str(saw)


@dataclass
class FirstTime:
    """Fires once, in the first step in which `sees` finds something."""

    sees: Callable[[Metrics], str | None]
    activity: str
    why: str
    _fired: bool = field(default=False, init=False)

    def find_fault(self, metrics: Metrics) -> str:
        saw = "" if self._fired else self.sees(metrics) or FINE
        self._fired = self._fired or bool(saw)
        return saw


@dataclass
class NotFalling:
    """Fires once, when the mean loss of the last `window` steps is not below that of the first `window`."""

    window: int
    activity: str = "update"
    why: str = "the model does not learn: look at the learning rate, and at what the loss mask leaves"
    _losses: list[float] = field(default_factory=list, init=False)

    def find_fault(self, metrics: Metrics) -> str:
        loss = finite_number(metrics, LOSS)
        if loss is None:
            return FINE
        self._losses.append(loss)
        if len(self._losses) != 2 * self.window:
            return FINE
        first, last = fmean(self._losses[: self.window]), fmean(self._losses[self.window :])
        return f"{LOSS} was {first:.4g} in the first {self.window} steps, {last:.4g} after" if last >= first else FINE


@dataclass
class KeepsFalling:
    """Fires once, when the number at `key` has fallen by more than `by` since the first `window` steps, and still falls.

    Means of whole windows are compared, of which there must be `windows`. It still falls where the last window lost at least half
    of what a window lost in the mean: a number that levels off does not.
    """

    key: str
    window: int
    windows: int
    by: float
    why: str
    activity: str = "update"
    _values: list[float] = field(default_factory=list, init=False)
    _fired: bool = field(default=False, init=False)

    def find_fault(self, metrics: Metrics) -> str:
        value = finite_number(metrics, self.key)
        if value is None or self._fired:
            return FINE
        self._values.append(value)
        count, rest = divmod(len(self._values), self.window)
        if rest or count < self.windows:
            return FINE
        means = [fmean(self._values[place * self.window :][: self.window]) for place in range(count)]
        fall, last = means[0] - means[-1], means[-2] - means[-1]
        self._fired = fall > self.by and last >= fall / (count - 1) / 2
        return f"{self.key} fell from {means[0]:.4g} to {means[-1]:.4g} and still falls" if self._fired else FINE


def far_above_first(factor: float, by: float) -> Callable[[Metrics], str | None]:
    """The loss is more than `factor` times that of the first step, and more than `by` above it: near 0 a factor says little."""
    first: list[float] = []

    def sees(metrics: Metrics) -> str | None:
        loss = finite_number(metrics, LOSS)
        if loss is None:
            return None
        if not first:
            first.append(loss)
        is_far = loss > factor * first[0] and loss > first[0] + by
        return f"{LOSS} {loss:.4g}, and {first[0]:.4g} in the first step" if is_far else FINE

    return sees


def finite_number(metrics: Metrics, key: str) -> float | None:
    """The finite number at `key`; None without one."""
    value = metrics.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def non_finite(*keys: str) -> Callable[[Metrics], str | None]:
    """One of the numbers is NaN or infinite."""

    def sees(metrics: Metrics) -> str | None:
        present = [key for key in keys if key in metrics]
        bad = [key for key in present if finite_number(metrics, key) is None]
        return f"{', '.join(bad)} not finite" if bad else FINE if present else None

    return sees


def zero_gradient(metrics: Metrics) -> str | None:
    """A gradient norm of exactly 0. Without advantages it must be 0, which `no_variance` reports."""
    norms = {key: norm for key in names.GRADIENT_NORMS.values() if (norm := finite_number(metrics, key)) is not None}
    if not norms:
        return None
    zero = [key for key, norm in norms.items() if norm == 0]
    return f"{', '.join(zero)} is exactly 0" if zero and not no_advantage(metrics) else FINE


def zero_loss(metrics: Metrics) -> str | None:
    loss = finite_number(metrics, LOSS)
    return None if loss is None else f"{LOSS} is exactly 0" if loss == 0 else FINE


def no_advantage(metrics: Metrics) -> bool | None:
    """Whether every advantage is 0 because all rewards within each group were equal; None for metrics without advantages."""
    most, least = (finite_number(metrics, key) for key in (names.ADVANTAGE_MOST, names.ADVANTAGE_LEAST))
    return None if most is None or least is None else most == least == 0


def no_variance(solved: float) -> Callable[[Metrics], str | None]:
    """All rollouts of each group have the same reward.

    A mean reward of `solved` or more is the end of a task and not a fault: `reward_saturated` reports it. A step that learns
    from a teacher needs no advantages.
    """

    def sees(metrics: Metrics) -> str | None:
        empty, reward = no_advantage(metrics), finite_number(metrics, REWARD)
        if empty is None or any(names.TEACHER in key for key in metrics):
            return None
        if not empty or (reward is not None and reward >= solved):
            return FINE
        return f"every advantage is 0 (reward {'unknown' if reward is None else f'{reward:.4g}'})"

    return sees


def beyond(key: str, settings: Mapping[str, Any]) -> Callable[[Metrics], str | None]:
    """The number at `key` lies beyond the threshold that a rule's settings name by one of `_BEYOND`."""
    name, (is_beyond, wording) = next(each for each in _BEYOND.items() if each[0] in settings)
    threshold = settings[name]

    def sees(metrics: Metrics) -> str | None:
        value = finite_number(metrics, key)
        if value is None:
            return None
        return f"{key} {value:.4g} ({wording.format(threshold)})" if is_beyond(value, threshold) else FINE

    return sees


def failed_answers(above: float) -> Callable[[Metrics], str | None]:
    """A larger share of the step's answers than `above` has no reward."""

    def sees(metrics: Metrics) -> str | None:
        share, count = (finite_number(metrics, key) for key in (names.FAILED_SHARE, names.FAILED_ANSWERS))
        if share is None:
            return None
        return f"{count or 0:.0f} answers ({share:.1%}) have no reward" if share > above else FINE

    return sees


def probability_mismatch(
    correlation_below: float, kl_above: float, entropy_above: float
) -> Callable[[Metrics], str | None]:
    """Rollout and actor disagree on the probabilities of the same tokens.

    Below an entropy of `entropy_above` nats a token, nearly all probabilities are 1, and only their rounding correlates.
    """

    def sees(metrics: Metrics) -> str | None:
        correlation, kl, entropy = (
            finite_number(metrics, key) for key in (names.ROLLOUT_CORRELATION, names.ROLLOUT_KL, names.ENTROPY)
        )
        if correlation is None and kl is None:
            return None
        is_rounding = entropy is not None and entropy <= entropy_above
        low = correlation is not None and correlation < correlation_below and not is_rounding
        bad = [f"{names.ROLLOUT_CORRELATION} {correlation:.3f}"] if low else []
        bad += [f"{names.ROLLOUT_KL} {kl:.3g}"] if kl is not None and abs(kl) > kl_above else []
        return ", ".join(bad)

    return sees


def at_first(steps: int, sees: Callable[[Metrics], str | None]) -> Callable[[Metrics], str | None]:
    """The same in the first `steps` of a run alone, by the number of the step that the trainer logs: a run may be resumed."""

    def sees_first(metrics: Metrics) -> str | None:
        step = finite_number(metrics, names.GLOBAL_STEP)
        return None if step is None or step > steps else sees(metrics)

    return sees_first


def make_metric_rules(settings: Mapping[str, Mapping[str, Any]], trained: Settings) -> dict[str, MetricRule]:
    """The rules on metrics by name, without those that are off. `settings` is `posttrain.watch` with its thresholds.

    `trained` are the settings of the run, whose keys a remedy names.
    """
    return {name: make(settings[name], trained) for name, make in _RULES.items() if settings[name]["do"] != "off"}


EXPLAINED_BY_LOG = ("failed_answer", "failed_answers")  # rules whose reason is an exception that stands in the log
_FAILED = (
    "the reward or the agent loop raised, so VeRL leaves these answers out of training and of the mean reward: "
    "return a score for any answer"
)
_RULES: dict[str, Callable[[Mapping[str, Any], Settings], MetricRule]] = {
    "non_finite": lambda s, run: InARow(
        s["steps"], non_finite(*names.LOSSES, REWARD, names.PENALIZED_REWARD), "update",
        "the numbers are broken: lower the learning rate, look at the data of this step"),
    "non_finite_gradient": lambda s, run: InARow(
        s["steps"], non_finite(*names.GRADIENT_NORMS.values()), "update",
        "VeRL skips such steps, so nothing is trained: lower the learning rate, look at the data of these steps"),
    "zero_gradient": lambda s, run: InARow(
        s["steps"], zero_gradient, "update", "nothing is trained: frozen weights, an all-masked batch, or clipping at 0"),
    "sft_zero_loss": lambda s, run: InARow(
        s["steps"], zero_loss, "update",
        f"the loss mask leaves no token: look at the chat template and {run.written_limit_key()}"),
    "sft_not_falling": lambda s, run: NotFalling(s["window"]),
    "diverging": lambda s, run: InARow(
        s["steps"], far_above_first(s["factor"], s["by"]), "update",
        f"training makes the model worse: lower {run.model.key('lr')}, or give it a warm-up"),
    "easy_pairs": lambda s, run: InARow(
        s["steps"], at_first(s["within"], beyond(names.PAIR_ACCURACY, s)), "update",
        "nearly every pair is told apart before anything is learned: look whether length or format alone does it"),
    "chosen_falling": lambda s, run: KeepsFalling(
        names.CHOSEN_LOG_PROBABILITY, s["window"], s["windows"], s["by"],
        "the model unlearns the answers that it should prefer: lower the learning rate, raise beta, or add the likelihood of "
        "the chosen answers to the loss"),
    "no_variance": lambda s, run: InARow(
        s["steps"], no_variance(s["solved"]), "reward",
        "no group has two different rewards, so nothing is learned: too hard or too easy a task, or a constant grader"),
    "reward_zero": lambda s, run: InARow(
        s["steps"], beyond(REWARD, s), "reward",
        "no answer is graded right: too hard a task, a format the grader does not read, or too short responses"),
    "reward_saturated": lambda s, run: InARow(
        s["steps"], beyond(REWARD, s), "reward", "the task is solved: take harder data, or stop here"),
    "entropy_collapse": lambda s, run: InARow(
        s["steps"], beyond(names.ENTROPY, s), "update",
        "the policy no longer explores: lower the learning rate, raise clip_ratio_high or the entropy coefficient"),
    "length_at_cap": lambda s, run: InARow(
        s["steps"], beyond(names.CUT_OFF, s), "generation",
        f"most responses are cut off: raise {run.written_limit_key()}, or see whether the model emits its end "
        "token"),
    "mismatch": lambda s, run: InARow(
        s["steps"], probability_mismatch(s["correlation_below"], s["kl_above"], s["entropy_above"]), "weight sync",
        "the rollouts do not come from the policy that is trained: weights not updated, or precisions too far apart"),
    "verifier_errors": lambda s, run: InARow(
        s["steps"], beyond(names.VERIFIER_ERRORS, s), "reward",
        "the verifier fails, which is not a wrong answer: look at its logs and limits first"),
    "failed_answer": lambda s, run: FirstTime(failed_answers(s["above"]), "reward", _FAILED),
    "failed_answers": lambda s, run: InARow(s["steps"], failed_answers(s["above"]), "reward", _FAILED),
}  # fmt: skip
