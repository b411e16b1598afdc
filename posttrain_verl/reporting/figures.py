"""Which curves the page draws, and from which of VeRL's keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from posttrain_verl.reporting.series import Floats, Ints, Metrics, Series

DIGITS = 5  # significant ones that a curve keeps
TREND_FROM = 60  # values from which on a noisy curve gets its moving mean


@dataclass(frozen=True)
class Curve:
    """One line: VeRL's key, or a prefix of keys that ends in `*`, and its name in the legend."""

    key: str
    label: str = ""


@dataclass(frozen=True)
class Plot:
    """One figure. `unit` is shown beside the title, `percent` shows shares as such, `stacked` adds the curves up, `log` allows a
    logarithmic axis, and a single curve that is `noisy` gets a trend."""

    title: str
    why: str
    curves: tuple[Curve, ...]
    unit: str = ""
    percent: bool = False
    stacked: bool = False
    log: bool = False
    noisy: bool = True


STAGES = ("gen", "reward", "old_log_prob", "ref", "values", "adv", "update_critic", "update_actor", "update_weights",
          "testing", "save_checkpoint", "dump_rollout_generations")  # fmt: skip

PLOTS = (
    Plot("Reward", "what the policy is trained on; it must rise, and held-out accuracy with it",
         (Curve("critic/score/mean", "score"), Curve("critic/rewards/mean", "with penalties"))),
    Plot("Parts of the reward", "a rising score can be a rising bonus: accuracy should carry it", (Curve("reward/*"),)),
    Plot("Held-out accuracy", "on questions that are not trained on", (Curve("val-core/*"),), percent=True),
    Plot("Loss", "of the next token; held-out loss that rises while training loss falls is overfitting",
         (Curve("train/loss", "training"), Curve("val/loss", "held out"))),
    Plot("Response length", "a jump is often a change of behaviour: reasoning, padding, or loops",
         (Curve("response_length/mean", "mean"),), "tokens"),
    Plot("Cut off", "share of responses at the length limit: they rarely hold an answer",
         (Curve("response_length/clip_ratio", "responses"),), percent=True),
    Plot("Entropy", "towards 0 the policy stops exploring", (Curve("actor/entropy", "policy"),), "nats"),
    Plot("KL", "how far the policy moves in a step, and from its reference",
         (Curve("actor/ppo_kl", "of the step"), Curve("actor/kl_loss", "to the reference"),
          Curve("actor/reward_kl_penalty", "penalty"))),
    Plot("Gradient norm", "before clipping; exactly 0 trains nothing, spikes come before a collapse",
         (Curve("actor/grad_norm", "actor"), Curve("critic/grad_norm", "critic"), Curve("train/grad_norm", "model")), log=True),
    Plot("Rollout and trainer agree", "correlation of their token probabilities; below 0.99 the weights or the numerics differ",
         (Curve("training/rollout_actor_probs_pearson_corr", "correlation"),)),
    Plot("Learning rate", "the schedule",
         (Curve("actor/lr", "actor"), Curve("critic/lr", "critic"), Curve("train/lr", "model")), noisy=False),
    Plot("Throughput", "", (Curve("perf/throughput", "tokens"), Curve("train/tokens_per_second", "tokens")), "tokens/s/GPU"),
    Plot("Memory", "peak of one GPU, and of the machine",
         (*(Curve(f"{of}perf/max_memory_allocated_gb", "allocated") for of in ("", "actor/")),
          *(Curve(f"{of}perf/max_memory_reserved_gb", "reserved") for of in ("", "actor/")),
          *(Curve(f"{of}perf/cpu_memory_used_gb", "machine") for of in ("", "actor/"))), "GiB"),
)  # fmt: skip


def of_run(metrics: Metrics, prefix: str = "") -> list[dict[str, Any]]:
    """The figures for which the run measured anything, ready for JSON."""
    drawn = [_lines(plot, metrics) for plot in PLOTS]
    drawn.insert(-2, _stages(metrics))
    return [named(figure, prefix) for figure in drawn if figure]


def named(figure: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The figure as one of the part of a page that `prefix` names."""
    return figure | {"id": prefix + figure["id"], "part": prefix}


def compared(members: Sequence[tuple[str, Metrics]], prefix: str = "") -> list[dict[str, Any]]:
    """The same figures with one curve a run, for what says how runs differ."""
    return [named(figure, prefix) for plot in PLOTS for figure in _one_for_all(plot, members)]


def _one_for_all(plot: Plot, members: Sequence[tuple[str, Metrics]]) -> Iterator[dict[str, Any]]:
    """The figure of the first of the plot's keys that any run measured; of keys with a `*` one for each."""
    found = {key: curve for curve in plot.curves for _, each in members for key in _keys(curve, each) if len(each[key])}
    for key, curve in list(found.items())[: None if plot.curves[0].key.endswith("*") else 1]:
        measured = [(label, each[key]) for label, each in members if len(each[key])]
        part = (
            f": {key.removeprefix(curve.key[:-1]).removesuffix('/mean')}"
            if len(found) > 1 and curve.key.endswith("*")
            else ""
        )
        yield _figure(replace(plot, title=plot.title + part), measured)


def _lines(plot: Plot, metrics: Metrics) -> dict[str, Any] | None:
    measured = [pair for curve in plot.curves for pair in _curves(curve, metrics) if len(pair[1])]
    return _figure(plot, measured) if measured else None


def _curves(curve: Curve, metrics: Metrics) -> Iterable[tuple[str, Series]]:
    for key in _keys(curve, metrics):
        yield curve.label or key.removeprefix(curve.key[:-1]).removesuffix("/mean"), metrics[key]


def _keys(curve: Curve, metrics: Metrics) -> list[str]:
    return metrics.keys(curve.key[:-1]) if curve.key.endswith("*") else [curve.key]


def _figure(plot: Plot, measured: Sequence[tuple[str, Series]]) -> dict[str, Any]:
    steps = np.unique(np.concatenate([series.steps for _, series in measured]))
    curves: list[dict[str, Any]] = [{"label": label, "y": rounded(_at(series, steps))} for label, series in measured]
    if plot.noisy and len(measured) == 1 and len(measured[0][1]) >= TREND_FROM:
        curves.append({"label": "moving mean", "y": rounded(_at(_trend(measured[0][1]), steps)), "trend": True})
    gone = {label: int((~np.isfinite(series.values)).sum()) for label, series in measured}
    return {
        "id": plot.title.lower().replace(" ", "-"), "title": plot.title, "why": plot.why, "unit": plot.unit,
        "percent": plot.percent, "stacked": plot.stacked, "log": plot.log and _spans(measured), "x": steps,
        "curves": curves, "lost": {label: count for label, count in gone.items() if count},
    }  # fmt: skip


def _stages(metrics: Metrics) -> dict[str, Any] | None:
    """The seconds of each stage of a step, and as `other` what is left of the step."""
    whole = metrics["timing_s/step"]
    parts = [(stage, metrics[f"timing_s/{stage}"]) for stage in STAGES]
    measured = [(stage.replace("_", " "), series) for stage, series in parts if len(series)]
    if not measured:
        return None
    if len(whole):
        inside = sum(np.nan_to_num(_at(series, whole.steps)) for _, series in measured)
        measured.append(("other", Series(whole.steps, np.maximum(whole.values - inside, 0.0))))
    figure = _figure(Plot("Time of a step", "by stage", (), "s", stacked=True), measured)
    for curve in figure["curves"]:
        curve["y"] = np.nan_to_num(curve["y"])
    return figure


def _spans(measured: Sequence[tuple[str, Series]]) -> bool:
    """Whether a logarithmic axis helps: all is above 0 and spans more than a factor of 20."""
    values = np.concatenate([series.finite for _, series in measured])
    return bool(len(values) and values.min() > 0 and values.max() / values.min() > 20)


def _at(series: Series, steps: Ints) -> Floats:
    """The values at `steps`, NaN where there is none."""
    out = np.full(len(steps), np.nan)
    out[np.searchsorted(steps, series.steps)] = series.values
    return out


def _trend(series: Series) -> Series:
    """The mean over a centred window of a twentieth of the curve; shorter at its ends. What is not finite is left out."""
    half = max(1, len(series) // 40)
    good = np.isfinite(series.values)
    return Series(series.steps, _window_sum(np.where(good, series.values, 0.0), half) / _count(good, half))


def _count(good: Any, half: int) -> Floats:
    counted = _window_sum(good.astype(float), half)
    return np.where(counted > 0, counted, np.nan)


def _window_sum(values: Floats, half: int) -> Floats:
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    return total[np.minimum(at + half + 1, len(values))] - total[np.maximum(at - half, 0)]


def rounded(values: Floats) -> Floats:
    """The values with DIGITS significant digits."""
    usable = np.isfinite(values) & (values != 0)
    digits = np.zeros_like(values)
    digits[usable] = DIGITS - 1 - np.floor(np.log10(np.abs(values[usable])))
    scale = 10.0 ** np.clip(digits, -300, 300)
    return np.round(values * scale) / scale
