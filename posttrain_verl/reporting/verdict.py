"""The first sentence of the page: is the gain real; and what ended the run."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain_verl.reporting.evaluations import Comparison, Evaluation, Record
from posttrain_verl.reporting.run import Run
from posttrain_verl.reporting.series import Metrics

STATES = {"done": "ended as planned", "failed": "failed", "interrupted": "was interrupted", "running": "is running",
          "stopped": "was stopped"}  # fmt: skip


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def interval(metric: Record) -> str:
    """`54.3 % [51.6, 57.0]`, the 95 % interval."""
    if "low" not in metric or "high" not in metric:
        return percent(metric["value"])
    return f"{percent(metric['value'])} [{100 * metric['low']:.1f}, {100 * metric['high']:.1f}]"


def p_value(p: float) -> str:
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def points(share: float) -> str:
    return f"{100 * share:+.1f} points"


def of_comparison(found: Comparison) -> str:
    """Whether the second model is better, in one sentence."""
    first, second = found.first, found.second
    figures = f"{interval(second.accuracy or {})} against {interval(first.accuracy or {})}"
    change = (
        f"{points(found.difference)} [{100 * found.low:+.1f}, {100 * found.high:+.1f}], {found.test} {p_value(found.p)}"
    )
    claim = {
        "better": f"The gain is real: {second.label} is better than {first.label} on {second.name}",
        "worse": f"The loss is real: {second.label} is worse than {first.label} on {second.name}",
        "noise": f"No difference is shown: {second.label} against {first.label} on {second.name} is within noise",
    }[found.verdict]
    return f"{claim}, {figures} ({change}, n = {found.n})."


def of_run(run: Run, compared: Sequence[Comparison]) -> list[str]:
    """The sentences of a run; the first is the verdict."""
    return [_gain(run.evaluations, compared, run.metrics), *_more(compared), _end(run)]


def of_pipeline(evaluations: Sequence[Evaluation], compared: Sequence[Comparison], end: str) -> list[str]:
    """The sentences of a pipeline; the first is the verdict."""
    return [_gain(evaluations, compared, Metrics()), *_more(compared), end]


def _gain(evaluations: Sequence[Evaluation], compared: Sequence[Comparison], metrics: Metrics) -> str:
    if compared:
        return of_comparison(compared[-1])
    if evaluations:
        last = evaluations[-1]
        return (f"{last.label} answers {interval(last.accuracy or {})} of {last.name} right (n = {last.data.get('n', '?')}); "
                "whether that is a gain is not known: no other model was evaluated on the same questions.")  # fmt: skip
    held_out = [metrics[key] for key in metrics.keys("val-core/")]
    for series in held_out:
        if len(series.finite) > 1:
            first, last = series.finite[0], series.finite[-1]
            return (f"Held-out accuracy went from {percent(first)} to {percent(last)} while training; "
                    "no evaluation with an interval has been made yet, so this is no proof of a gain.")  # fmt: skip
    for key, word in (
        ("critic/score/mean", "The reward"),
        ("val/loss", "The held-out loss"),
        ("train/loss", "The loss"),
    ):
        if ends := metrics[key].ends():
            return f"{word} went from {ends[0]:.3g} to {ends[1]:.3g}; no evaluation yet, so no gain is shown."
    return "Nothing has been measured yet."


def _more(compared: Sequence[Comparison]) -> list[str]:
    return [of_comparison(each) for each in reversed(compared[:-1])]


def _end(run: Run) -> str:
    steps = run.last_step
    planned = f" of {run.planned_steps}" if run.planned_steps else ""
    at = f" after step {steps}{planned}" if steps is not None else ""
    took = f", {duration(run.seconds)}" if run.seconds else ""
    why = str(run.status.get("why") or "")
    stop = next((event for event in reversed(run.events) if event.get("level") == "stop"), None)
    if stop and run.state != "done":
        why = f"the watch stopped it at step {stop.get('step')} ({stop.get('rule')}): {stop.get('why') or stop.get('saw')}"
    return f"The run {STATES.get(run.state, 'left no status')}{at}{took}{': ' + why if why else ''}."


def duration(seconds: float) -> str:
    """`45 s`, `12 min 5 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
