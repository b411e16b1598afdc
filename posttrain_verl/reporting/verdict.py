"""The first sentence of the page: is the gain real; and what ended the run."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain_verl.evaluation.comparison import Comparison, points
from posttrain_verl.evaluation.result import Metric
from posttrain_verl.reporting.evaluations import Evaluation, headline
from posttrain_verl.reporting.run import Run
from posttrain_verl.reporting.series import Metrics
from posttrain_verl.statistics import Share

STATES = {"done": "ended as planned", "failed": "failed", "interrupted": "was interrupted", "running": "is running",
          "stopped": "was stopped"}  # fmt: skip


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def interval(metric: Metric) -> str:
    """`54.3 % [51.6, 57.0]`, the 95 % interval."""
    return str(Share(metric["value"], metric["low"], metric["high"], metric["n"]))


def p_value(p: float) -> str:
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def of_comparison(found: Comparison, evaluations: Sequence[Evaluation]) -> str:
    """Whether the second model is better, in one sentence."""
    seen = found.numbers
    shares = {each.label: interval(each.accuracy) for each in evaluations if each.name == found.eval}
    claim = {
        "gain": f"The gain is real: {found.second} is better than {found.first} on {found.eval}",
        "loss": f"The loss is real: {found.second} is worse than {found.first} on {found.eval}",
        "noise": f"No difference is shown: {found.second} against {found.first} on {found.eval} is within noise",
    }[found.verdict]
    change = f"{points(seen.difference)} points [{points(seen.low)}, {points(seen.high)}]"
    test = f"{seen.test} {p_value(found.corrected)}{f' corrected for {found.of} comparisons' if found.of > 1 else ''}"
    return f"{claim}, {shares[found.second]} against {shares[found.first]} ({change}, {test}, n = {seen.n})."


def of_run(run: Run, evaluations: Sequence[Evaluation], compared: Sequence[Comparison]) -> list[str]:
    """The sentences of a run; the first is the verdict."""
    return [*_gain(evaluations, compared, run.metrics), _end(run)]


def of_pipeline(evaluations: Sequence[Evaluation], compared: Sequence[Comparison], end: str) -> list[str]:
    """The sentences of a pipeline; the first is the verdict."""
    return [*_gain(evaluations, compared, Metrics()), end]


def _gain(evaluations: Sequence[Evaluation], compared: Sequence[Comparison], metrics: Metrics) -> list[str]:
    first = headline(compared)
    if first is None:
        return [_single(evaluations[-1]) if evaluations else _while_training(metrics)]
    others = [each for each in compared if each is not first]
    return [of_comparison(each, evaluations) for each in (first, *others)]


def _single(last: Evaluation) -> str:
    return (f"The model {last.label} answers {interval(last.accuracy)} of {last.name} right (n = {last.data['n']}); "
            "whether that is a gain is not known: no other model was evaluated on the same questions.")  # fmt: skip


def _while_training(metrics: Metrics) -> str:
    for key in metrics.keys("val-core/"):
        if len(values := metrics[key].finite) > 1:
            return (f"Held-out accuracy went from {percent(values[0])} to {percent(values[-1])} while training; "
                    "no evaluation with an interval has been made yet, so this is no proof of a gain.")  # fmt: skip
    for key, word in (
        ("critic/score/mean", "The reward"),
        ("val/loss", "The held-out loss"),
        ("train/loss", "The loss"),
    ):
        if ends := metrics[key].ends():
            return f"{word} went from {ends[0]:.3g} to {ends[1]:.3g}; no evaluation yet, so no gain is shown."
    return "Nothing has been measured yet."


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
