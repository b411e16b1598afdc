"""The plan of a composed launch for a reader: batch arithmetic and memory, as text, as JSON and as a table."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table as Grid

from posttrain_verl.base_models.shape import known_shape
from posttrain_verl.plan.memory import HOST, Table, memory_table
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.job import GIB


class MemoryUnknown(Exception):
    """The memory of this launch cannot be computed; the message says why."""


def plan_memory(composed: Composed, fill: float = 1.0) -> Table:
    """The memory table of a launch; `fill` is the length of a sequence as a share of the longest.

    Raises:
        MemoryUnknown: no GPU memory is given, the model's shape is not known here, or the engine is not FSDP.
    """
    node = composed.posttrain.hardware
    if node.memory_gb is None:
        raise MemoryUnknown(f"hardware={node.name} gives no GPU memory")
    shape = known_shape(composed.model, composed.posttrain.base_model)
    if shape is None:
        raise MemoryUnknown(
            f"the shape of {composed.model} is not known here: give its config.json, or posttrain.base_model.config"
        )
    if not composed.settings.uses_fsdp:
        raise MemoryUnknown("the memory model covers VeRL's FSDP engines")
    return memory_table(composed.settings.job(shape, node, fill))


def batch_in_words(composed: Composed) -> str:
    """E.g. "64 prompts x 8 rollouts = 512 sequences a step; 2 optimizer steps of 32 prompts; 4 GPUs hold 8 sequences each;
    accumulation 8"."""
    settings, device = composed.settings, "device" if composed.posttrain.hardware.name == "cpu" else "GPU"
    return f"{settings.describe_step()}; {settings.batch().shared_in_words(device)}"


def summarize_plan(composed: Composed) -> dict[str, Any]:
    """What plan.json holds of the plan: `arithmetic`, `memory` and `memory_phases`, null where they cannot be computed."""
    if not composed.settings.is_readable():
        return {"memory": None, "memory_phases": None, "arithmetic": None}
    counts = composed.settings.batch().as_dict() | {"words": batch_in_words(composed)}
    try:
        lines = plan_memory(composed)
    except MemoryUnknown:
        return {"memory": None, "memory_phases": None, "arithmetic": counts}
    rows = [{"line": line.name, "gb": round(line.gb, 3), "formula": line.formula, "source": line.source,
             "phases": sorted(line.phases)} for line in lines.lines]  # fmt: skip
    phases = {phase: round(lines.total(phase) / GIB, 3) for phase in [*lines.phases, HOST]}
    return {"memory": rows, "memory_phases": phases, "arithmetic": counts}


WIDE_TERMINAL = 120  # columns of a terminal that has room for the formulas


def show_memory(composed: Composed, width: int = WIDE_TERMINAL) -> Group | str:
    """The memory of a launch, a line a row and a phase a column, or why it is not known.

    The formulas stand in a column of their own where the terminal's `width` has room for it.
    """
    try:
        lines = plan_memory(composed)
    except MemoryUnknown as reason:
        return f"memory: not planned ({reason})"
    phase, peak = lines.peak
    said = f"at the peak {peak / GIB:.1f} of {lines.job.memory / GIB:.1f} GB a GPU, in {phase}"
    if lines.kv_sequences is not None:
        said += f"; vLLM's cache holds {max(lines.kv_sequences, 0):.0f} of them at once on one engine"
    said += "" if lines.fits else "; this does not fit"
    return Group(f"memory in GB of 2^30 bytes, sequences at full length: {said}",
                 _memory_grid(lines, formulas=width >= WIDE_TERMINAL))  # fmt: skip


def _memory_grid(lines: Table, formulas: bool) -> Grid:
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
