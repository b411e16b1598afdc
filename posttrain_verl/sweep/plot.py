"""The plot of a sweep: a point a member, the best on top, with its interval where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from posttrain_verl.sweep.record import Record

if TYPE_CHECKING:
    from posttrain_verl.sweep.table import Row

FILE = "sweep.html"


def figure(record: Record, found: Sequence[Row]) -> go.Figure:
    """Members from the best, above, to the worst; those that measured nothing are left out."""
    shown = [row for row in reversed(found) if row.result]
    names = [f"{row.member.number}: {' '.join(record.swept(row.member))}" for row in shown]
    values = [row.result.value for row in shown if row.result]
    intervals = [row.share for row in shown]
    above = [one.high - value if one else 0.0 for one, value in zip(intervals, values, strict=True)]
    below = [value - one.low if one else 0.0 for one, value in zip(intervals, values, strict=True)]
    points = go.Scatter(
        x=values, y=names, mode="markers", text=[row.verdict for row in shown],
        error_x={"type": "data", "symmetric": False, "array": above, "arrayminus": below},
    )  # fmt: skip
    measures = sorted({row.result.measure for row in shown if row.result})
    return go.Figure(points, {"title": f"sweep {record.id}", "xaxis": {"title": {"text": ", ".join(measures)}}})


def write(record: Record, found: Sequence[Row], file: Path) -> None:
    """Write one page that needs no network."""
    figure(record, found).write_html(file, include_plotlyjs=True)
