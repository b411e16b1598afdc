"""Memory of one GPU: what the plan foresees at the tokens that were trained, and what torch allocated.

VeRL 0.9.1 logs `perf/max_memory_allocated_gb` and `perf/max_memory_reserved_gb` of the process that trains, in 2^30 bytes. vLLM
runs in processes of its own, and the CUDA context is in none of torch's figures: both are left out of the planned one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import OmegaConf

from posttrain_verl.compose import Composed, compose
from posttrain_verl.plan import adapt, job, memory, shape
from posttrain_verl.plan.job import Job
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.metrics import by_step

TOLERANCE = 0.25  # of the planned figure; a plan that is off by more is named in the report
GIB = 2**30
NOT_TORCHS = ("CUDA context", "fragmentation", "vLLM", "weight sync")
# Tokens of one step on all GPUs, as VeRL's trainers of SFT and of RL log them.
TOKENS = ("train/global_tokens", "perf/total_num_tokens")


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


def compare(words: Sequence[str], folder: RunFolder) -> Memory:
    """The memory of a run that was launched with `words`."""
    metrics = list(by_step(folder.metrics).values())
    trained = [value for step in metrics for key, value in step.items() if key in TOKENS]
    asked = of_tokens(compose(list(words)), max(trained)) if trained else None
    return Memory(planned(asked), _peak(metrics, "allocated"), _peak(metrics, "reserved"),
                  asked.models[0].tokens if asked else None)  # fmt: skip


def of_tokens(composed: Composed, tokens: float) -> Job | None:
    """The job of a launch whose step trained `tokens` on all GPUs together: runs seldom fill what they may.

    VeRL shares a step's tokens evenly among as few micro batches as their budget allows. None where the model's shape is
    not known.
    """
    given = composed.posttrain.base_model.get("config")
    if not given:
        return None
    rows, mini_batches = _rows(composed)
    fill = tokens / rows / adapt.longest(composed.stage, composed.verl)
    asked = job.of_config(composed.stage, composed.verl, _shape(given), composed.posttrain.hardware, fill)
    each = tokens / asked.gpus
    models = [replace(model, tokens=_even(each / mini_batches, model.tokens), forward_tokens=_even(each, model.forward_tokens))
              for model in asked.models]  # fmt: skip
    return replace(asked, models=tuple(models))


def of_micro_batch(composed: Composed, tokens: int) -> Job:
    """The job of a launch whose largest micro batch had `tokens`."""
    shape_of_model = _shape(composed.posttrain.base_model.config)
    asked = job.of_config(composed.stage, composed.verl, shape_of_model, composed.posttrain.hardware)
    return replace(asked, models=tuple(replace(model, tokens=tokens, forward_tokens=tokens) for model in asked.models))


def planned(asked: Job | None) -> float | None:
    """The peak that the plan foresees in torch's own accounting on one GPU; None on a machine without one."""
    if asked is None or not asked.memory:
        return None
    table = memory.table(asked)
    lines = [line for line in table.lines if not line.name.startswith(NOT_TORCHS)]
    phases = [phase for phase in table.phases if phase != memory.ROLLOUT]
    return max(sum(line.bytes for line in lines if phase in line.phases) for phase in phases) / GIB


def _rows(composed: Composed) -> tuple[int, float]:
    """Sequences of one step, and in how many mini batches they are trained."""
    config = composed.verl
    if composed.stage == "sft":
        return config.data.train_batch_size, 1
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    return config.data.train_batch_size * rollout.n, config.data.train_batch_size / actor.ppo_mini_batch_size


def _even(tokens: float, most: int) -> int:
    """Tokens of one of the fewest equal micro batches of at most `most`."""
    return math.ceil(tokens / max(math.ceil(tokens / most), 1))


def _shape(given: Any) -> shape.Shape:
    config: Any = OmegaConf.to_container(given)
    return shape.of_config(config)


def _peak(metrics: Any, kind: str) -> float | None:
    ends = f"perf/max_memory_{kind}_gb"
    found = [value for step in metrics for key, value in step.items() if key.endswith(ends)]
    return max(found, default=None)


def table(memories: Mapping[str, Memory]) -> list[str]:
    """A Markdown table of the runs."""
    rows = [f"| {name} | {one.tokens or '-'} | {_gb(one.planned)} | {_gb(one.allocated)} | {_gb(one.reserved)} | {one.verdict} |"
            for name, one in memories.items()]  # fmt: skip
    return [
        "| run | tokens of a micro batch | planned GB | allocated GB | reserved GB | allocated against planned |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


def _gb(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
