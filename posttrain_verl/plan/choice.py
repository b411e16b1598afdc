"""The choice: what a recipe must change to fit a machine that it was not written for.

The memory model judges settings in the order in which one would rather have them, the recipe's own first, and the first
that fits is taken. Full fine-tuning comes before LoRA, a smaller token budget and offloading before splitting sequences.
What the user set is a setting like any other that has no alternative.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from posttrain_verl.plan.job import Job, Trained
from posttrain_verl.plan.memory import RL_PHASES, ROLLOUT, SYNC, Table, table

LORA_RANK = 32  # VeRL docs/algo/baseline.md, GRPO-LoRA from 0.5B to 72B
SMALL_BUDGET = 8192  # tokens; below it the GPU starves, so offloading is tried first
SHARES = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
FEWEST_SEQUENCES = 8  # of full length that vLLM should hold at once
SPLITS = (1, 2, 4, 8)
SPARE = 0.03  # of the device, in the phases in which the plan counts no fragmentation


@dataclass(frozen=True)
class Setting:
    """What may change: LoRA rank (0: full), GPUs a sequence, offloads, tokens of a micro batch
    on a GPU, tensor parallelism and memory share of the rollout engine, bytes of a stored weight."""

    lora: int
    split: int
    param_offload: bool
    optimizer_offload: bool
    tokens: int
    tensor_parallel: int = 1
    share: float = 0.0
    master: int = 4

    @property
    def offloads(self) -> tuple[bool, bool]:
        return self.param_offload, self.optimizer_offload


def current(job: Job) -> Setting:
    """The setting of a job as it stands."""
    model, rollout = job.models[0], job.rollout
    return Setting(model.lora_rank, model.sequence_parallel, model.param_offload, model.optimizer_offload,
                   max(model.tokens, model.forward_tokens), rollout.tensor_parallel if rollout else 1,
                   rollout.share if rollout else 0.0, model.master_bytes)  # fmt: skip


def vary(job: Job, setting: Setting) -> Job:
    """The same job with another setting."""
    rollout = job.rollout and replace(job.rollout, tensor_parallel=setting.tensor_parallel, share=setting.share,
                                      keeps_weights=setting.lora > 0)  # fmt: skip
    models = tuple(_vary_model(model, setting) for model in job.models)
    return replace(job, models=models, rollout=rollout, reference=None if setting.lora else job.reference)


def _vary_model(model: Trained, setting: Setting) -> Trained:
    return replace(
        model,
        master_bytes=setting.master if model.name != "critic" else model.master_bytes,
        lora_rank=setting.lora if model.name != "critic" else model.lora_rank,
        sequence_parallel=setting.split,
        param_offload=setting.param_offload,
        optimizer_offload=setting.optimizer_offload,
        tokens=min(model.tokens, setting.tokens),
        forward_tokens=min(model.forward_tokens, setting.tokens),
    )


def search(job: Job, longest: int, fixed: frozenset[str] = frozenset()) -> tuple[Setting, Table] | None:
    """The first setting that fits, with its memory; None if none does.

    `longest` is the longest sequence in tokens; `fixed` names the fields of `Setting` that stay as they are.
    """
    trains: dict[Setting, bool] = {}
    for setting in settings(job, longest, fixed):
        alone = replace(setting, tensor_parallel=1, share=0.0)
        if alone not in trains:
            trains[alone] = _training_fits(vary(job, setting))
        if trains[alone]:
            memory = table(vary(job, setting))
            holds_enough = memory.kv_sequences is None or memory.kv_sequences >= FEWEST_SEQUENCES
            if memory.fits and holds_enough and leaves_room(memory):
                return setting, memory
    return None


def leaves_room(memory: Table) -> bool:
    """Whether what the planner chooses leaves vLLM a rest of the device, for what no formula counts: reports of colocated
    GPUs name 3.0 and 7.5 GB outside torch (verl #2828, rllm #93)."""
    room = memory.job.memory * (1 - SPARE)
    return all(memory.total(phase) <= room for phase in (ROLLOUT, SYNC))


def _training_fits(job: Job) -> bool:
    memory = table(job)
    return all(memory.total(phase) <= job.memory for phase in RL_PHASES if phase not in (ROLLOUT, SYNC))


def settings(job: Job, longest: int, fixed: frozenset[str]) -> Iterator[Setting]:
    """Settings in the order of preference."""
    now = current(job)
    splits = [now.split] if "split" in fixed else _splits(job, now.split)
    for (lora, master), split in product(_modes(now, fixed), splits):
        for offloads, tokens in _frugality(now, -(-longest // split), fixed):
            for engine in _engines(job, now, fixed):
                yield Setting(lora, split, *offloads, tokens, *engine, master)


def _modes(now: Setting, fixed: frozenset[str]) -> list[tuple[int, int]]:
    """(LoRA rank, bytes of a stored weight): full, then LoRA, then LoRA on frozen weights in bf16.

    Full fine-tuning keeps fp32: at its learning rates bf16 weights lose their updates.
    """
    ranks = [now.lora] if now.lora or "lora" in fixed else [0, LORA_RANK]
    modes = [(rank, now.master) for rank in ranks]
    return [*modes, (ranks[-1], 2)] if ranks[-1] and now.master > 2 and "master" not in fixed else modes


def _splits(job: Job, now: int) -> list[int]:
    """GPUs that may share one sequence (Ulysses): they divide the heads and the GPUs. The present number is first."""
    heads = job.models[0].shape.heads
    possible = [n for n in SPLITS if job.gpus % n == 0 and heads % n == 0 and n <= job.gpus_per_node]
    return [now, *(n for n in possible if n > now)] if now in possible else possible[::-1]


def _frugality(now: Setting, floor: int, fixed: frozenset[str]) -> list[tuple[tuple[bool, bool], int]]:
    """(offloads, tokens), dearest last: a budget that starves the GPU costs more than an offload."""
    wished = [(False, True), (True, True)]
    offloads = [now.offloads, *(pair for pair in wished if pair != now.offloads and _spares(now, pair, fixed))]
    tokens = [now.tokens]
    while "tokens" not in fixed and tokens[-1] > floor:
        tokens.append(max(tokens[-1] // 2, floor))
    pairs = list(product(offloads, tokens))
    return sorted(pairs, key=lambda pair: (pair[1] < min(SMALL_BUDGET, now.tokens), offloads.index(pair[0]), -pair[1]))


def _spares(now: Setting, pair: tuple[bool, bool], fixed: frozenset[str]) -> bool:
    """Whether a pair of offloads keeps what is offloaded now and touches nothing fixed."""
    names = ("param_offload", "optimizer_offload")
    return all(
        new == old or (new and name not in fixed) for name, old, new in zip(names, now.offloads, pair, strict=True)
    )


def _engines(job: Job, now: Setting, fixed: frozenset[str]) -> list[tuple[int, float]]:
    """(tensor parallelism, memory share) of the rollout engine."""
    if job.rollout is None:
        return [(1, 0.0)]
    heads, per_node = job.models[0].shape.heads, job.gpus_per_node
    possible = [n for n in (1, 2, 4, 8) if per_node % n == 0 and heads % n == 0]
    splits = [now.tensor_parallel] if "tensor_parallel" in fixed else sorted(
        possible, key=lambda n: (n != now.tensor_parallel, n))  # fmt: skip
    shares = [now.share] if "share" in fixed else [now.share, *(s for s in SHARES if s < now.share),
                                                   *sorted(s for s in SHARES if s > now.share)]  # fmt: skip
    return list(product(splits, shares))


def smallest(job: Job, longest: int) -> Table:
    """The memory of the most frugal setting there is, whatever was asked for: what a machine must have at least."""
    tables = (table(vary(job, setting)) for setting in settings(job, longest, frozenset()))
    return min(tables, key=lambda memory: memory.peak[1])
