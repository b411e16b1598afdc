"""The sentences, figures and tables of a page: the verdict, what ended the run, and the plan against what happened.

The first sentence says whether the gain is real. A sweep's members are judged by `sweep.table`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_prep.manifest import describe_drops
from posttrain_verl import significance
from posttrain_verl.evaluate.comparison import Comparison, comparison_remarks
from posttrain_verl.evaluate.result import ACCURACY
from posttrain_verl.report.run import Evaluation, Files, JsonObject, Metrics, Run, Series, headline_comparison
from posttrain_verl.run.folder import worked_seconds
from posttrain_verl.sweep import table
from posttrain_verl.sweep.members import Record
from posttrain_verl.sweep.table import Row
from posttrain_verl.verl import metrics as names

STATES = {"done": "ended as planned", "failed": "failed", "interrupted": "was interrupted", "running": "is running",
          "stopped": "was stopped"}  # fmt: skip


def format_percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def format_p_value(p: float) -> str:
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def comparison_sentence(found: Comparison, evaluations: Sequence[Evaluation]) -> str:
    """Whether the second model is better, in one sentence."""
    seen = found.numbers
    shares = {each.label: each.shown for each in evaluations if each.name == found.eval}
    claim = {
        "gain": f"The gain is real: {found.second} is better than {found.first} on {found.eval}",
        "loss": f"The loss is real: {found.second} is worse than {found.first} on {found.eval}",
        "noise": f"No difference is shown: {found.second} against {found.first} on {found.eval} is within noise",
    }[found.verdict]
    difference, low, high = map(found.format_difference, (seen.difference, seen.low, seen.high))
    change = f"{difference} {found.unit} [{low}, {high}]"
    test = f"{seen.test} {format_p_value(found.corrected)}{f' corrected for {found.of} comparisons' if found.of > 1 else ''}"
    return f"{claim}, {shares[found.second]} against {shares[found.first]} ({change}, {test}, n = {seen.n})."


class HeldOut(NamedTuple):
    """What validations measured: accuracy where the reward says what is right, else the reward."""

    name: str
    series: Series
    format: Callable[[float], str]


def find_held_out(metrics: Metrics) -> HeldOut | None:
    """Accuracy if there is any, else reward; the mean over all answers before the best of several. None: no validation."""
    kinds = (("Held-out accuracy", names.HELD_OUT_ACCURACY, format_percent),
             ("Held-out reward", names.HELD_OUT_REWARD, "{:.3g}".format))  # fmt: skip
    found = (HeldOut(name, metrics[key], show) for name, prefix, show in kinds
             for key in names.means_first(metrics.keys(prefix)))  # fmt: skip
    return next((each for each in found if len(each.series.finite)), None)


def gain_sentences(evaluations: Sequence[Evaluation], compared: Sequence[Comparison], metrics: Metrics) -> list[str]:
    """The verdict, which is about the last model against the first, and a sentence for every other comparison."""
    first = headline_comparison(compared)
    if first is not None:
        others = [each for each in compared if each is not first]
        return [comparison_sentence(each, evaluations) for each in (first, *others)]
    if evaluations:
        last = evaluations[-1]
        answers = f"The model {last.label} answers {last.shown} of {last.name} right"
        if last.figure != ACCURACY:
            answers = f"The model {last.label} earns a mean reward of {last.shown} on {last.name}"
        unknown = "whether that is a gain is not known: no other model was evaluated on the same questions"
        return [f"{answers} (n = {last.data['n']}); {unknown}."]
    if (held_out := find_held_out(metrics)) and len(values := held_out.series.finite) > 1:
        change = f"from {held_out.format(values[0])} to {held_out.format(values[-1])}"
        unproved = "no evaluation with an interval has been made yet, so this does not prove a gain"
        return [f"{held_out.name} went {change} while training; {unproved}."]
    for metric in names.HEADLINES:
        if ends := metrics[metric.key].ends():
            change = f"went from {ends[0]:.3g} to {ends[1]:.3g}"
            return [f"The {metric.name.lower()} {change}; no evaluation yet, so no gain is shown."]
    return ["Nothing has been measured yet."]


def remark_sentences(evaluations: Sequence[Evaluation], compared: Sequence[Comparison]) -> list[str]:
    """What weakens the comparisons: other sampling, or questions that only one model answered."""
    results = {f"{each.label}@{each.name}#{number}": each.data for number, each in enumerate(evaluations)}
    remarks = comparison_remarks(results) if compared else []
    return [f"{remark[0].upper()}{remark[1:]}." for remark in remarks]


def end_sentence(run: Run) -> str:
    """How the run ended, or that it still runs."""
    steps = run.last_step
    planned = f" of {run.planned_steps}" if run.planned_steps else ""
    at = f" after step {steps}{planned}" if steps is not None else ""
    count = len(run.attempts)
    took = f", {format_duration(run.seconds)}{f' in {count} attempts' if count > 1 else ''}" if run.seconds else ""
    why = str(run.status.get("why") or "")
    stop = next((event for event in reversed(run.events) if event.get("level") == "stop"), None)
    if stop and run.state != "done":
        why = f"the watch stopped it at step {stop.get('step')} ({stop.get('rule')}): {stop.get('why') or stop.get('saw')}"
    return f"The run {STATES.get(run.state, 'left no status')}{at}{took}{': ' + why if why else ''}."


def format_duration(seconds: float) -> str:
    """`45 s`, `12 min 5 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Tile(NamedTuple):
    """A headline figure: its name, its value, and a note on where it came from."""

    name: str
    value: str
    note: str = ""


class PlanRow(NamedTuple):
    """One line of the plan against what happened."""

    what: str
    planned: str
    happened: str


def headline_tiles(run: Run) -> list[Tile]:
    """The few numbers that a reader wants first."""
    found = [Tile("Steps", _format_count(run.last_step), f"of {run.planned_steps}" if run.planned_steps else "")]
    if run.seconds:
        found.append(Tile("Time", format_duration(run.seconds), describe_attempts(run)))
    for metric in (*names.HEADLINES, *run.own_metrics, names.RESPONSE_LENGTH):
        if ends := run.metrics[metric.key].ends():
            found.append(Tile(metric.name, f"{ends[1]:.3g}", f"from {ends[0]:.3g}"))
    if held_out := find_held_out(run.metrics):
        values = held_out.series.finite
        found.append(Tile(held_out.name, held_out.format(values[-1]), f"best {held_out.format(values.max())}"))
    warned = sum(event.get("level") in ("warn", "stop") for event in run.events)
    return [*found, Tile("Warnings", str(warned), "of the watch")]


def describe_attempts(run: Run) -> str:
    """Of how many attempts the time is. An older version did not write down those before the last."""
    known, unknown = len(run.attempts), run.attempts[0].attempt - 1
    note = f"work of {known} attempts" if known > 1 else ""
    return f"{note or 'of the last attempt'}, without the first {unknown}" if unknown > 0 else note


def attempt_records(run: Run) -> list[JsonObject]:
    """Each attempt: when it began, how long it worked, its steps, and how it ended. Empty for a run of one attempt."""
    found = []
    for each in run.attempts if len(run.attempts) > 1 else []:
        begin = "the beginning" if each.resumed_from is None else f"step {each.resumed_from}"
        found.append({"number": each.attempt, "started": each.started, "seconds": worked_seconds([each]), "begin": begin,
                      "last_step": each.last_step, "state": each.state, "why": each.why})  # fmt: skip
    return found


def plan_rows(run: Run) -> list[PlanRow]:
    """What was planned or set, against what was measured."""
    measured = run.metrics
    phases = dict(run.plan.get("memory_phases") or {})
    host = [value] if (value := phases.pop("host", None)) else []
    allocated, machine = measured.first(*names.ALLOCATED), measured.first(*names.HOST_MEMORY)
    rows = [
        PlanRow("steps", _format_count(run.planned_steps), _format_count(run.last_step)),
        PlanRow("seconds a step, median", "", _format_median(measured[names.TIME_OF_STEP].finite)),
        PlanRow("memory of a GPU, peak (GiB)", _format_peak(list(phases.values())), _format_peak(allocated.finite)),
        PlanRow("memory of the machine, peak (GiB)", _format_peak(host), _format_peak(machine.finite)),
        PlanRow("tokens a second and GPU", "", _format_median(measured[names.THROUGHPUT[0]].finite)),
        *(PlanRow(f"{length.what} (tokens)", _format_count(run.option(length.key)),
                  _format_peak(measured[length.metric].finite)) for length in run.measured_lengths),
    ]  # fmt: skip
    return [row for row in rows if row.planned or row.happened]


def check_records(run: Run) -> list[JsonObject]:
    """The checks of preflight.json that did more than pass; their problems as lines."""
    found = []
    for check in run.preflight.get("checks", []):
        lines = [" ".join(filter(None, (p.get("what"), p.get("remedy")))) for p in check.get("problems", [])]
        name, verdict = check.get("check"), check.get("verdict")
        if verdict != "passed":
            found.append({"name": name, "verdict": verdict, "said": lines or [check.get("note", "")]})
    return found


def source_records(manifest: JsonObject) -> list[JsonObject]:
    """For each source of the data: kind, licence, rows read and kept, and what was dropped."""
    return [
        {"name": name, "kind": entry.get("kind"), "licence": entry.get("licence"), "read": entry.get("rows_in"),
         "kept": entry.get("rows_kept"),
         "dropped": describe_drops(entry)}
        for name, entry in (manifest.get("sources") or {}).items()
    ]  # fmt: skip


def split_records(manifest: JsonObject) -> list[JsonObject]:
    """For each Parquet: its rows, and the rows of each source in it with their share."""
    found = []
    for name, entry in (manifest.get("files") or {}).items():
        rows = entry.get("rows") or 0
        parts = (entry.get("rows_by_source") or {}).items()
        mix = ", ".join(f"{source} {count} ({format_percent(count / rows)})" for source, count in parts if rows)
        found.append({"name": name, "rows": rows, "mix": mix, "sha256": str(entry.get("sha256", ""))[:12]})
    return found


def _format_count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _format_median(values: Any) -> str:
    return f"{np.median(values):,.4g}" if len(values) else ""


def _format_peak(values: Any) -> str:
    return f"{np.max(values):,.4g}" if len(values) else ""


Interval = tuple[float, float, float]  # low end, value, high end


def sweep_rows(files: Files) -> tuple[list[Row], list[list[str]]]:
    """The members, the best first, and the overrides of each that other members do not have."""
    try:
        record = Record.load(files.path)
    except (ValueError, TypeError, KeyError) as error:
        files.flaws.append(f"sweep.json cannot be read: {error}")
        return [], []
    try:
        found = table.rank_members(record)
    except ValueError as error:  # a validation file that is just being written
        files.flaws.append(f"the members cannot be compared now: {error}")
        found = [Row(member, None) for member in record.members]
    return found, [record.swept(row.member) or row.member.overrides for row in found]


def short_keys(keys: Sequence[str]) -> list[str]:
    """The last part of each dotted key, where that does not make two alike."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return last if len(set(last)) == len(last) else list(keys)


def short_overrides(overrides: Sequence[str]) -> str:
    """The overrides with short keys."""
    pairs = [override.partition("=") for override in overrides]
    keys = short_keys([key for key, _, _ in pairs])
    return " ".join(f"{key}{equals}{value}" for key, (_, equals, value) in zip(keys, pairs, strict=True))


def intervals(found: Sequence[Row]) -> tuple[str, list[Interval | None]]:
    """What the line reaches from and to on which the members are drawn, and each member's interval on it, from 0 to 1.

    Members with another measure than the best, or with none, have no place on the line.
    """
    best = found[0].result if found else None
    if best is None:
        return "", [None for _ in found]
    values: list[Interval | None] = []
    for row in found:
        if not row.result or row.result.measure != best.measure:
            values.append(None)
        elif interval := row.interval:
            values.append((interval.low, interval.value, interval.high))
        else:
            values.append((row.result.value,) * 3)
    low, high = min(each[0] for each in values if each), max(each[2] for each in values if each)
    width = (high - low) or 1.0
    drawn = [each and ((each[0] - low) / width, (each[1] - low) / width, (each[2] - low) / width) for each in values]
    reach = f"{100 * low:.1f} to {100 * high:.1f} %" if best.is_accuracy else f"{low:.4g} to {high:.4g}"
    return f"{best.measure}, {reach}", drawn


def sweep_sentences(found: Sequence[Row], labels: Sequence[str]) -> list[str]:
    """Which member stands best and how many others chance may explain; and that the best of many is partly luck."""
    best = found[0].result if found else None
    if best is None:
        return ["No run of this sweep has measured anything yet."]
    tested = [row.p for row in found if row.p is not None]
    worse = sum(p < significance.ALPHA for p in tested)
    claim = f"Of {len(found)} runs {labels[0]} ends best, with {best.measure} {found[0].value}"
    if not tested:
        claim += "; one number a run has no interval, so whether it is better is not known"
    elif worse:
        claim += f": {worse} of the others are worse, {len(tested) - worse} differ by no more than noise"
    else:
        claim = f"No run stands out: {labels[0]} has {best.measure} {found[0].value}, and the others differ by no more than noise"
    return [f"{claim}.", "The best of several is flattered by chance: confirm it on questions it was not chosen on."]
