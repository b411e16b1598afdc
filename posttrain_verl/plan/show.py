"""The plan on a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table as Grid

from posttrain_verl.compose import Composed
from posttrain_verl.plan import summary
from posttrain_verl.plan.job import GIB
from posttrain_verl.plan.memory import HOST, Table

WIDE = 120  # columns of a terminal that has room for the formulas


def memory(composed: Composed, width: int = WIDE) -> Group | str:
    """The memory of a launch, a line a row and a phase a column, or why it cannot be told.

    The formulas stand in a column of their own where the terminal's `width` has room for it.
    """
    try:
        lines = summary.memory(composed)
    except summary.Unknown as reason:
        return f"memory: not planned ({reason})"
    return Group(
        f"memory in GB of 2^30 bytes, sequences at full length: {_verdict(lines)}", _grid(lines, formulas=width >= WIDE)
    )


def _verdict(lines: Table) -> str:
    phase, peak = lines.peak
    said = f"at the peak {peak / GIB:.1f} of {lines.job.memory / GIB:.1f} GB a GPU, in {phase}"
    if lines.kv_sequences is not None:
        said += f"; vLLM's cache holds {max(lines.kv_sequences, 0):.0f} of them at once on one engine"
    return said + ("" if lines.fits else "; this does not fit")


def _grid(lines: Table, formulas: bool) -> Grid:
    phases = [*lines.phases, HOST]
    grid = Grid(box=box.SIMPLE, pad_edge=False, show_edge=False, padding=(0, 1) if formulas else (0, 1, 0, 0))
    grid.add_column("a GPU; last, a node's host" if formulas else "", no_wrap=True)
    for phase in phases:
        grid.add_column(phase, justify="right", no_wrap=True)
    if formulas:
        grid.add_column("formula")
    for line in lines.lines:
        figures = [f"{line.gb:.2f}" if phase in line.phases else "" for phase in phases]
        grid.add_row(line.name, *figures, *([line.formula] if formulas else []))
    grid.add_section()
    grid.add_row("together", *(f"{lines.total(phase) / GIB:.1f}" for phase in phases))
    there = [f"{lines.job.memory / GIB:.1f}"] * len(lines.phases)
    grid.add_row("there is", *there, f"{lines.job.host_memory / GIB:.0f}")
    return grid
