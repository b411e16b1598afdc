"""Memory of one GPU: what the plan foresees at the tokens that were trained, and what torch allocated.

VeRL 0.9.1 logs what torch allocated and reserved in the process that trains, in 2^30 bytes. vLLM
runs in processes of its own, and the CUDA context is in none of torch's figures: both are left out of the planned one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import OmegaConf

from posttrain_verl.base_models import shape
from posttrain_verl.compose import compose
from posttrain_verl.plan import memory
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.output import metrics_by_step
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.job import Job
from posttrain_verl.verl.metrics import ALLOCATED, RESERVED, STEP_TOKENS

TOLERANCE = 0.25  # of the planned figure; a plan that is off by more is named in the report
GIB = 2**30
OUTSIDE_TORCH = ("CUDA context", "fragmentation", "vLLM", "weight sync")


@dataclass(frozen=True)
class Memory:
    """Peaks of one GPU in GB of 2^30 bytes; None where nothing is planned (a CPU) or logged.

    `tokens` are those of the largest micro batch, for which the peak is planned.
    """

    planned: float | None
    allocated: float | None
    reserved: float | None
    tokens: int | None = None

    @property
    def verdict(self) -> str:
        """How the plan compares with what was allocated."""
        if self.planned is None or self.allocated is None:
            return "not comparable"
        off = self.allocated / self.planned - 1
        return f"{off:+.0%}" + (" **outside the tolerance**" if abs(off) > TOLERANCE else "")


def compare_memory(overrides: Sequence[str], folder: RunFolder) -> Memory:
    """The memory of a run that was launched with `overrides`."""
    metrics = list(metrics_by_step(folder.metrics).values())
    trained = [value for step in metrics for key, value in step.items() if key in STEP_TOKENS]
    asked = job_with_tokens(compose(list(overrides)), max(trained)) if trained else None
    return Memory(planned_peak(asked), _logged_peak(metrics, ALLOCATED), _logged_peak(metrics, RESERVED),
                  asked.models[0].tokens if asked else None)  # fmt: skip


def job_with_tokens(composed: Composed, tokens: float) -> Job | None:
    """The job of a launch whose step trained `tokens` on all GPUs together: runs seldom fill what they may.

    VeRL shares a step's tokens evenly among as few micro batches as their budget allows. None where the model's shape is
    not known.
    """
    given = composed.posttrain.base_model.get("config")
    if not given:
        return None
    step = composed.settings.batch()
    rows, mini_batches = step.sequences, step.prompts / (step.effective / step.rollouts)
    fill = tokens / rows / composed.settings.longest
    asked = composed.settings.job(_model_shape(given), composed.posttrain.hardware, fill)
    each = tokens / asked.gpus
    models = []
    for model in asked.models:
        largest, forward = (each / mini_batches, model.tokens), (each, model.forward_tokens)
        models.append(replace(model, tokens=_even_micro_batch(*largest), forward_tokens=_even_micro_batch(*forward)))
    return replace(asked, models=tuple(models))


def job_with_micro_batch(composed: Composed, tokens: int) -> Job:
    """The job of a launch whose largest micro batch had `tokens`."""
    asked = composed.settings.job(_model_shape(composed.posttrain.base_model.config), composed.posttrain.hardware)
    return replace(asked, models=tuple(replace(model, tokens=tokens, forward_tokens=tokens) for model in asked.models))


def planned_peak(asked: Job | None) -> float | None:
    """The peak that the plan foresees in torch's own accounting on one GPU; None on a machine without one."""
    if asked is None or not asked.memory:
        return None
    table = memory.memory_table(asked)
    lines = [line for line in table.lines if not line.name.startswith(OUTSIDE_TORCH)]
    phases = [phase for phase in table.phases if phase != memory.ROLLOUT]
    return max(sum(line.bytes for line in lines if phase in line.phases) for phase in phases) / GIB


def _even_micro_batch(tokens: float, most: int) -> int:
    """Tokens of one of the fewest equal micro batches of at most `most`."""
    return math.ceil(tokens / max(math.ceil(tokens / most), 1))


def _model_shape(given: Any) -> shape.Shape:
    config: Any = OmegaConf.to_container(given)
    return shape.shape_of_config(config)


def _logged_peak(metrics: Any, keys: Sequence[str]) -> float | None:
    found = [value for step in metrics for key, value in step.items() if key in keys]
    return max(found, default=None)


def memory_table(memories: Mapping[str, Memory]) -> list[str]:
    lines = ["| run | tokens of a micro batch | planned GB | allocated GB | reserved GB | allocated against planned |"]
    lines.append("|---|---|---|---|---|---|")
    for name, one in memories.items():
        peaks = " | ".join(map(format_number, (one.planned, one.allocated, one.reserved)))
        lines.append(f"| {name} | {one.tokens or '-'} | {peaks} | {one.verdict} |")
    return lines


def format_number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
