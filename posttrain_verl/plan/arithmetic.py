"""Batch arithmetic of a sound launch: numbers for the plan, and the same in plain words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import DictConfig

from posttrain_verl.compose import Composed
from posttrain_verl.verl.parallelism import sequence_parallel_size


@dataclass(frozen=True)
class Arithmetic:
    """Counts of one trainer step. `ranks` share the data; `micro` sequences pass at once, in `tokens` at most."""

    prompts: int
    rollouts: int
    updates: int
    ranks: int
    gpus_a_rank: int
    micro: int | None
    tokens: int | None
    longest: int

    @property
    def sequences(self) -> int:
        """Sequences of a step."""
        return self.prompts * self.rollouts

    @property
    def effective(self) -> int:
        """Sequences of one optimizer step: the effective batch."""
        return self.sequences // self.updates

    @property
    def held(self) -> int:
        """Sequences that a micro batch holds: its size, or how many of full length fit the token budget."""
        most = self.micro if self.micro is not None else (self.tokens or 0) * self.gpus_a_rank // self.longest
        return max(1, min(most, self.effective // self.ranks or 1))

    @property
    def accumulation(self) -> int:
        """Micro batches whose gradients one optimizer step adds up; at most, where a token budget packs shorter ones."""
        return -(-self.effective // (self.ranks * self.held))

    def as_dict(self) -> dict[str, Any]:
        """What plan.json holds."""
        return asdict(self) | {"sequences": self.sequences, "effective_batch": self.effective,
                               "accumulation": self.accumulation}  # fmt: skip


def of(composed: Composed) -> Arithmetic:
    """The arithmetic of a launch whose numbers preflight found sound."""
    return of_config(composed.stage, composed.verl)


def of_config(stage: str, config: DictConfig) -> Arithmetic:
    """The same, of VeRL's config alone."""
    gpus, data = config.trainer.nnodes * config.trainer.n_gpus_per_node, config.data
    split = sequence_parallel_size(stage, config)
    if stage == "sft":
        role, n, updates, longest = data, 1, 1, data.max_length
        micro, tokens = data.micro_batch_size_per_gpu, data.max_token_len_per_gpu
    else:
        role, n = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout.n
        updates = max(data.train_batch_size // role.ppo_mini_batch_size, 1)
        longest = data.max_prompt_length + data.max_response_length
        micro, tokens = role.ppo_micro_batch_size_per_gpu, role.ppo_max_token_len_per_gpu
    dynamic = bool(role.use_dynamic_bsz)
    return Arithmetic(data.train_batch_size, n, updates, max(gpus // split, 1), split,
                      None if dynamic else micro or 1, tokens if dynamic else None, longest)  # fmt: skip


def words(composed: Composed) -> str:
    """E.g. "64 prompts x 8 rollouts = 512 sequences a step; 2 optimizer steps of 32 prompts; 4 GPUs hold 8 sequences each;
    accumulation 8"."""
    counts, config = of(composed), composed.verl
    if composed.stage == "sft":
        step = f"{_count(counts.prompts, 'row')} a step"
    else:
        mini = config.actor_rollout_ref.actor.ppo_mini_batch_size
        step = (f"{_count(counts.prompts, 'prompt')} x {_count(counts.rollouts, 'rollout')} = "
                f"{_count(counts.sequences, 'sequence')} a step; "
                f"{_count(counts.updates, 'optimizer step')} of {_count(mini, 'prompt')}")  # fmt: skip
    noun = "row" if composed.stage == "sft" else "sequence"
    device = "device" if composed.posttrain.hardware.name == "cpu" else "GPU"
    return f"{step}; {_holders(counts, noun, device)}"


def _holders(counts: Arithmetic, noun: str, device: str) -> str:
    if counts.gpus_a_rank == 1:
        who = f"{_count(counts.ranks, device)} hold{'s' if counts.ranks == 1 else ''}"
    else:
        who = (
            f"{_count(counts.ranks, 'group')} of {counts.gpus_a_rank} {device}s hold{'s' if counts.ranks == 1 else ''}"
        )
    each = "" if counts.ranks == 1 else " each"
    if counts.tokens is None:
        return f"{who} {_count(counts.held, noun)}{each}; accumulation {counts.accumulation}"
    budget = counts.tokens * counts.gpus_a_rank
    return (f"{who} {budget} tokens{each}, {_count(counts.held, noun)} of full length; "
            f"accumulation {counts.accumulation} at most")  # fmt: skip


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
