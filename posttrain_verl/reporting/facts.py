"""The numbers and tables of a run's page: its headline figures, the plan against what happened, checks, and data."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from posttrain_verl.reporting.files import Record
from posttrain_verl.reporting.run import Run
from posttrain_verl.reporting.series import Floats
from posttrain_verl.reporting.verdict import duration, percent


class Tile(NamedTuple):
    """A headline figure: its name, its value, and a word on where it came from."""

    name: str
    value: str
    note: str = ""


class Row(NamedTuple):
    """One line of the plan against what happened."""

    what: str
    planned: str
    happened: str


def tiles(run: Run) -> list[Tile]:
    """The few numbers that a reader wants first."""
    found = [Tile("Steps", _count(run.last_step), f"of {run.planned_steps}" if run.planned_steps else "")]
    if run.seconds:
        found.append(Tile("Time", duration(run.seconds)))
    for key, name in (("critic/score/mean", "Reward"), ("val/loss", "Held-out loss"), ("train/loss", "Loss"),
                      ("response_length/mean", "Response length")):  # fmt: skip
        if ends := run.metrics[key].ends():
            found.append(Tile(name, f"{ends[1]:.3g}", f"from {ends[0]:.3g}"))
    for key in run.metrics.keys("val-core/")[:1]:
        values = run.metrics[key].finite
        if len(values):
            found.append(Tile("Held-out accuracy", percent(values[-1]), f"best {percent(values.max())}"))
    warned = sum(event.get("level") in ("warn", "stop") for event in run.events)
    return [*found, Tile("Warnings", str(warned), "of the watch")]


def planned(run: Run) -> list[Row]:
    """What was planned or set, against what was measured."""
    measured = run.metrics
    phases = dict(run.plan.get("memory_phases") or {})
    host = phases.pop("host", None)
    rows = [
        Row("steps", _count(run.planned_steps), _count(run.last_step)),
        Row("seconds a step, median", "", _median(measured["timing_s/step"].finite)),
        Row("memory of a GPU, peak (GiB)", _peak(list(phases.values())), _peak(_memory(run, "max_memory_allocated_gb"))),
        Row("memory of the machine, peak (GiB)", _peak([host] if host else []), _peak(_memory(run, "cpu_memory_used_gb"))),
        Row("tokens a second and GPU", "", _median(measured["perf/throughput"].finite)),
        Row("longest response (tokens)", _count(run.option("data.max_response_length")),
            _peak(measured["response_length/max"].finite)),
        Row("longest prompt (tokens)", _count(run.option("data.max_prompt_length")), _peak(measured["prompt_length/max"].finite)),
    ]  # fmt: skip
    return [row for row in rows if row.planned or row.happened]


def arithmetic(run: Run) -> str:
    """The batch arithmetic of the plan in plain words; empty without a plan."""
    return str((run.plan.get("arithmetic") or {}).get("words", ""))


def checks(run: Run) -> list[Record]:
    """The checks of preflight.json that did more than pass; their problems as lines."""
    found = []
    for check in run.preflight.get("checks", []):
        said = [" ".join(filter(None, (p.get("what"), p.get("remedy")))) for p in check.get("problems", [])]
        if check.get("verdict") != "passed":
            found.append(
                {"name": check.get("check"), "verdict": check.get("verdict"), "said": said or [check.get("note", "")]}
            )
    return found


def sources(manifest: Record) -> list[Record]:
    """For each source of the data: kind, licence, rows read and kept, and what was dropped."""
    return [
        {"name": name, "kind": entry.get("kind"), "licence": entry.get("licence"), "read": entry.get("rows_in"),
         "kept": entry.get("rows_kept"),
         "dropped": ", ".join(f"{count} {reason}" for reason, count in (entry.get("drops") or {}).items())}
        for name, entry in (manifest.get("sources") or {}).items()
    ]  # fmt: skip


def splits(manifest: Record) -> list[Record]:
    """For each Parquet: its rows, and the rows of each source in it with their share."""
    found = []
    for name, entry in (manifest.get("files") or {}).items():
        rows = entry.get("rows") or 0
        parts = (entry.get("rows_by_source") or {}).items()
        mix = ", ".join(f"{source} {count} ({percent(count / rows)})" for source, count in parts if rows)
        found.append({"name": name, "rows": rows, "mix": mix, "sha256": str(entry.get("sha256", ""))[:12]})
    return found


def _memory(run: Run, name: str) -> Floats:
    """A measure of memory; the SFT trainer and the RL trainer have different keys for it."""
    return run.metrics.first(f"perf/{name}", f"actor/perf/{name}").finite


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _median(values: Any) -> str:
    return f"{np.median(values):,.4g}" if len(values) else ""


def _peak(values: Any) -> str:
    return f"{np.max(values):,.4g}" if len(values) else ""
