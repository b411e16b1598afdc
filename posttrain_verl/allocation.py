"""Memory of one GPU: what the plan foresaw for a run, and what torch allocated in it.

VeRL 0.9.1 logs `perf/max_memory_allocated_gb` and `perf/max_memory_reserved_gb` of the process that trains, in 2^30 bytes. vLLM
runs in processes of its own, and the CUDA context is in none of torch's figures: both are left out of the planned one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from posttrain_verl.compose import compose
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.metrics import by_step

TOLERANCE = 0.25  # of the planned figure; a plan that is off by more is named in the report
GIB = 2**30
NOT_TORCHS = ("CUDA context", "fragmentation", "vLLM", "weight sync")


@dataclass(frozen=True)
class Memory:
    """Peaks of one GPU in GB of 2^30 bytes; None where nothing is planned (a CPU) or logged."""

    planned: float | None
    allocated: float | None
    reserved: float | None

    @property
    def verdict(self) -> str:
        """How the plan compares with what was allocated."""
        if self.planned is None or self.allocated is None:
            return "not comparable"
        off = self.allocated / self.planned - 1
        return f"{off:+.0%}" + (" **outside the tolerance**" if abs(off) > TOLERANCE else "")


def compare(words: Sequence[str], folder: RunFolder) -> Memory:
    """The memory of a run that was launched with `words`."""
    metrics = by_step(folder.metrics).values()
    return Memory(planned(words), _peak(metrics, "allocated"), _peak(metrics, "reserved"))


def planned(words: Sequence[str]) -> float | None:
    """The peak that the plan foresees in torch's own accounting on one GPU; None on a machine without one."""
    composed = compose(list(words))
    facts, given = composed.posttrain.hardware, composed.posttrain.base_model.get("config")
    if not facts.get("memory_gb") or not given:
        return None
    from posttrain_verl.plan import job, memory, shape

    config: Any = OmegaConf.to_container(given)
    table = memory.table(job.of_config(composed.stage, composed.verl, shape.of_config(config), facts))
    lines = [line for line in table.lines if not line.name.startswith(NOT_TORCHS)]
    phases = [phase for phase in table.phases if phase != memory.ROLLOUT]
    return max(sum(line.bytes for line in lines if phase in line.phases) for phase in phases) / GIB


def _peak(metrics: Any, kind: str) -> float | None:
    ends = f"perf/max_memory_{kind}_gb"
    found = [value for step in metrics for key, value in step.items() if key.endswith(ends)]
    return max(found, default=None)


def table(memories: Mapping[str, Memory]) -> list[str]:
    """A Markdown table of the runs."""
    rows = [f"| {name} | {_gb(one.planned)} | {_gb(one.allocated)} | {_gb(one.reserved)} | {one.verdict} |"
            for name, one in memories.items()]  # fmt: skip
    return [
        "| run | planned GB | allocated GB | reserved GB | allocated against planned |",
        "|---|---|---|---|---|",
        *rows,
    ]


def _gb(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
