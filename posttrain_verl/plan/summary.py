"""The plan of a composed launch: its memory, its batch arithmetic, and what a reader should know of both."""

from __future__ import annotations

from typing import Any

from posttrain_verl.compose import Composed
from posttrain_verl.plan import adapt, arithmetic
from posttrain_verl.plan import job as jobs
from posttrain_verl.plan.known import shape_of
from posttrain_verl.plan.memory import HOST, Table, table
from posttrain_verl.plan.readable import is_readable


class Unknown(Exception):
    """The memory of this launch cannot be computed; the message says why."""


def memory(composed: Composed, fill: float = 1.0) -> Table:
    """The memory table of a launch; `fill` is the length of a sequence as a share of the longest.

    Raises:
        Unknown: no GPU memory is given, the model's shape is not known here, or the engine is not FSDP.
    """
    node = composed.posttrain.hardware
    if node.memory_gb is None:
        raise Unknown(f"hardware={node.name} gives no GPU memory")
    shape = shape_of(composed.model, composed.posttrain.base_model)
    if shape is None:
        raise Unknown(
            f"the shape of {composed.model} is not known here: give its config.json, or posttrain.base_model.config"
        )
    if not adapt.of_verl(composed.stage, composed.verl):
        raise Unknown("the memory model covers VeRL's FSDP engines")
    return table(jobs.of_config(composed.stage, composed.verl, shape, node, fill))


def of(composed: Composed) -> dict[str, Any]:
    """What plan.json holds of the plan: `arithmetic`, `memory` and `memory_phases`, null where they cannot be computed."""
    if not is_readable(composed.stage, composed.verl):
        return {"memory": None, "memory_phases": None, "arithmetic": None}
    counts = arithmetic.of(composed).as_dict() | {"words": arithmetic.words(composed)}
    try:
        lines = memory(composed)
    except Unknown:
        return {"memory": None, "memory_phases": None, "arithmetic": counts}
    rows = [{"line": line.name, "gb": round(line.gb, 3), "formula": line.formula, "source": line.source,
             "phases": sorted(line.phases)} for line in lines.lines]  # fmt: skip
    phases = {phase: round(lines.total(phase) / jobs.GIB, 3) for phase in [*lines.phases, HOST]}
    return {"memory": rows, "memory_phases": phases, "arithmetic": counts}
