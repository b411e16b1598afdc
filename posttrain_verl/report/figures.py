"""Which curves the page draws, and from which metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy

from posttrain_verl.report.run import Floats, Ints, Metrics, Series
from posttrain_verl.verl import metrics as names
from posttrain_verl.verl.metrics import Metric

DIGITS = 5  # significant ones that a curve keeps
TREND_FROM = 60  # values from which on a noisy curve gets its moving mean


@dataclass(frozen=True)
class Curve:
    """One line: the name of a metric and its name in the legend. A key that ends in `/` is a line for each metric below it."""

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


def _curve_each(keys: Mapping[str, str]) -> tuple[Curve, ...]:
    """One curve for each trained model."""
    return tuple(Curve(key, model) for model, key in keys.items())


PLOTS = (
    Plot("Reward", "what the policy is trained on; it must rise, and what is held out with it",
         (Curve(names.REWARD.key, "score"), Curve(names.PENALIZED_REWARD, "with penalties"))),
    Plot("Parts of the reward", "a rising score can be a rising bonus: see which part carries it", (Curve(names.REWARD_PARTS),)),
    Plot("Held-out accuracy", "on questions that are not trained on", (Curve(names.HELD_OUT_ACCURACY),), percent=True),
    Plot("Held-out reward", "on questions that are not trained on; a reward, which says nothing of right answers",
         (Curve(names.HELD_OUT_REWARD),)),
    Plot("Loss", "of the next token; held-out loss that rises while training loss falls is overfitting",
         (Curve(names.TRAINING_LOSS.key, "training"), Curve(names.VALIDATION_LOSS.key, "held out"))),
    Plot("Response length", "a jump is often a change of behaviour: reasoning, padding, or loops",
         (Curve(names.RESPONSE_LENGTH.key, "mean"),), "tokens"),
    Plot("Cut off", "share of responses at the length limit: they rarely hold an answer",
         (Curve(names.CUT_OFF, "responses"),), percent=True),
    Plot("Entropy", "towards 0 the policy stops exploring", (Curve(names.ENTROPY, "policy"),), "nats"),
    Plot("KL", "how far the policy moves in a step, and from its reference",
         (Curve(names.STEP_KL, "of the step"), Curve(names.REFERENCE_KL, "to the reference"),
          Curve(names.KL_PENALTY, "penalty"))),
    Plot("Gradient norm", "before clipping; exactly 0 trains nothing, spikes come before a collapse",
         _curve_each(names.GRADIENT_NORMS), log=True),
    Plot("Rollout and trainer agree", "correlation of their token probabilities; below 0.99 the weights or the numerics differ",
         (Curve(names.ROLLOUT_CORRELATION, "correlation"),)),
    Plot("Learning rate", "the schedule", _curve_each(names.LEARNING_RATES), noisy=False),
    Plot("Throughput", "", tuple(Curve(key, "tokens") for key in names.THROUGHPUT), "tokens/s/GPU"),
    Plot("Memory", "peak of one GPU, and of the machine",
         tuple(Curve(key, label) for label, kind in (("allocated", names.ALLOCATED), ("reserved", names.RESERVED),
                                                     ("machine", names.HOST_MEMORY)) for key in kind), "GiB"),
)  # fmt: skip


def list_plots(own: Iterable[Metric]) -> list[Plot]:
    """The figures of every run, after those of the metrics that only its stage has."""
    return [
        *(Plot(metric.name, metric.why, (Curve(metric.key, metric.short),)) for metric in dict.fromkeys(own)),
        *PLOTS,
    ]


def run_figures(metrics: Metrics, prefix: str = "", own: Iterable[Metric] = ()) -> list[dict[str, Any]]:
    """The figures for which the run measured anything, ready for JSON. `own` are the metrics that only its stage has."""
    drawn: list[dict[str, Any] | None] = []
    for plot in list_plots(own):
        labels = [pair for curve in plot.curves for pair in _measured_keys(curve, metrics).items()]
        drawn.append(_make_figure(plot, [(label, metrics[key]) for key, label in labels], prefix) if labels else None)
    drawn.insert(-2, _step_figure(metrics, prefix))
    return [figure for figure in drawn if figure]


def compare_figures(
    members: Sequence[tuple[str, Metrics]], prefix: str = "", own: Iterable[Metric] = ()
) -> list[dict[str, Any]]:
    """The same figures with one curve a run, for what says how runs differ."""
    drawn = []
    for plot in list_plots(own):
        found: dict[str, str] = {}
        for curve in plot.curves:
            for _, metrics in members:
                found |= _measured_keys(curve, metrics)
        whole = plot.curves[0].key.endswith("/")  # of several keys each has a figure, else the first that was measured
        for key, label in list(found.items())[: None if whole else 1]:
            measured = [(name, metrics[key]) for name, metrics in members if len(metrics[key])]
            title = f"{plot.title}: {label}" if whole and len(found) > 1 else plot.title
            drawn.append(_make_figure(replace(plot, title=title), measured, prefix))
    return drawn


def _measured_keys(curve: Curve, metrics: Metrics) -> dict[str, str]:
    """The keys of a curve that were measured, each with its name in the legend."""
    if not curve.key.endswith("/"):
        return {curve.key: curve.label} if len(metrics[curve.key]) else {}
    keys = [key for key in metrics.keys(curve.key) if len(metrics[key])]
    return {key: key.removeprefix(curve.key).removesuffix("/mean") for key in keys}


def _make_figure(plot: Plot, measured: Sequence[tuple[str, Series]], prefix: str) -> dict[str, Any]:
    """The figure as JSON; `prefix` names the part of the page that it belongs to."""
    steps = np.unique(np.concatenate([series.steps for _, series in measured]))
    curves: list[dict[str, Any]]
    curves = [{"label": label, "y": round_digits(_values_at(series, steps))} for label, series in measured]
    if plot.noisy and len(measured) == 1 and len(measured[0][1]) >= TREND_FROM:
        trend = _values_at(_moving_mean(measured[0][1]), steps)
        curves.append({"label": "moving mean", "y": round_digits(trend), "trend": True})
    # A logarithmic axis helps where all is above 0 and spans more than a factor of 20.
    values = np.concatenate([series.finite for _, series in measured])
    decades = bool(len(values) and values.min() > 0 and values.max() / values.min() > 20)
    gone = {label: int((~np.isfinite(series.values)).sum()) for label, series in measured}
    return {
        "id": prefix + plot.title.lower().replace(" ", "-"), "part": prefix,
        "title": plot.title, "why": plot.why, "unit": plot.unit,
        "percent": plot.percent, "stacked": plot.stacked, "log": plot.log and decades, "x": steps,
        "curves": curves, "lost": {label: count for label, count in gone.items() if count},
    }  # fmt: skip


def _step_figure(metrics: Metrics, prefix: str) -> dict[str, Any] | None:
    """The seconds of each part of a step, and as `other` what is left of the step."""
    whole = metrics[names.TIME_OF_STEP]
    parts = [(part, metrics[names.part_seconds(part)]) for part in names.STEP_PARTS]
    measured = [(part.replace("_", " "), series) for part, series in parts if len(series)]
    if not measured:
        return None
    if len(whole):
        inside = sum(np.nan_to_num(_values_at(series, whole.steps)) for _, series in measured)
        measured.append(("other", Series(whole.steps, np.maximum(whole.values - inside, 0.0))))
    figure = _make_figure(Plot("Time of a step", "by stage", (), "s", stacked=True), measured, prefix)
    for curve in figure["curves"]:
        curve["y"] = np.nan_to_num(curve["y"])
    return figure


def _values_at(series: Series, steps: Ints) -> Floats:
    """The values at `steps`, NaN where there is none."""
    out = np.full(len(steps), np.nan)
    out[np.searchsorted(steps, series.steps)] = series.values
    return out


def _moving_mean(series: Series) -> Series:
    """The mean over a centred window of a twentieth of the curve; shorter at its ends. What is not finite is left out."""
    window = 2 * max(1, len(series) // 40) + 1
    good = np.isfinite(series.values)
    means = scipy.ndimage.uniform_filter1d(np.where(good, series.values, 0.0), window, mode="constant")
    shares = scipy.ndimage.uniform_filter1d(good.astype(float), window, mode="constant")
    return Series(series.steps, means / np.where(shares > 0, shares, np.nan))


def round_digits(values: Floats) -> Floats:
    """The values with DIGITS significant digits."""
    usable = np.isfinite(values) & (values != 0)
    digits = np.zeros_like(values)
    digits[usable] = DIGITS - 1 - np.floor(np.log10(np.abs(values[usable])))
    scale = 10.0 ** np.clip(digits, -300, 300)
    return np.round(values * scale) / scale
