"""The plan on a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group
from rich.table import Table as Grid

from posttrain_verl.compose import Composed
from posttrain_verl.plan import summary
from posttrain_verl.plan.job import GIB
from posttrain_verl.plan.memory import HOST, Table

WIDTH = 150  # of a plan that is not written to a terminal


def console() -> Console:
    """The terminal, or where there is none a page wide enough for the table."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=WIDTH)


def memory(composed: Composed) -> Group | str:
    """The memory of a launch, a line a row and a phase a column, or why it cannot be told."""
    try:
        lines = summary.memory(composed)
    except summary.Unknown as reason:
        return f"memory: not planned ({reason})"
    return Group(f"memory in GB of 2^30 bytes, sequences at full length: {_verdict(lines)}", _grid(lines))


def _verdict(lines: Table) -> str:
    phase, peak = lines.peak
    said = f"the most is {peak / GIB:.1f} of {lines.job.memory / GIB:.1f} GB a GPU, in {phase}"
    if lines.kv_sequences is not None:
        said += f"; vLLM's cache holds {max(lines.kv_sequences, 0):.0f} of them at once on one engine"
    return said + ("" if lines.fits else "; this does not fit")


def _grid(lines: Table) -> Grid:
    phases = [*lines.phases, HOST]
    grid = Grid(box=box.SIMPLE, pad_edge=False)
    grid.add_column("on one GPU; on the host of a node")
    for phase in phases:
        grid.add_column(phase, justify="right")
    grid.add_column("formula")
    for line in lines.lines:
        grid.add_row(line.name, *(f"{line.gb:.2f}" if phase in line.phases else "" for phase in phases), line.formula)
    grid.add_section()
    grid.add_row("together", *(f"{lines.total(phase) / GIB:.1f}" for phase in phases), "")
    grid.add_row(
        "there is", *([f"{lines.job.memory / GIB:.1f}"] * len(lines.phases)), f"{lines.job.host_memory / GIB:.0f}", ""
    )
    return grid
