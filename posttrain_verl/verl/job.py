"""What a launch trains: the arithmetic of one step, and models and rollout engine in the terms of the memory model.

Settings describe themselves in these terms (`Settings.batch`, `Settings.job`, `ModelSettings.describe`, `Rollout.describe`),
and posttrain_verl/plan turns them into bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from posttrain_verl.base_models.shape import Shape


@dataclass(frozen=True)
class Batch:
    """Counts of one trainer step. `ranks` share the data; `micro` sequences pass at once, in `tokens` at most.

    `noun` is what one sequence is called: "row" or "sequence". Each `group` of them stays in one micro batch.
    """

    prompts: int
    rollouts: int
    updates: int
    ranks: int
    gpus_a_rank: int
    micro: int | None
    tokens: int | None
    longest: int
    noun: str = "sequence"
    group: int = 1

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
        return max(self.group, min(most // self.group * self.group, self.effective // self.ranks or 1))

    @property
    def accumulation(self) -> int:
        """Micro batches whose gradients one optimizer step adds up; at most, where a token budget packs shorter ones."""
        return -(-self.effective // (self.ranks * self.held))

    def as_dict(self) -> dict[str, Any]:
        """What plan.json holds."""
        counts = {key: value for key, value in asdict(self).items() if key not in ("noun", "group")}
        return counts | {
            "sequences": self.sequences,
            "effective_batch": self.effective,
            "accumulation": self.accumulation,
        }

    def shared_in_words(self, device: str) -> str:
        """How the devices share a step: "4 GPUs hold 8 sequences each; accumulation 8"."""
        holds = f"hold{'s' if self.ranks == 1 else ''}"
        if self.gpus_a_rank == 1:
            who = f"{counted(self.ranks, device)} {holds}"
        else:
            who = f"{counted(self.ranks, 'group')} of {self.gpus_a_rank} {device}s {holds}"
        each = "" if self.ranks == 1 else " each"
        if self.tokens is None:
            return f"{who} {counted(self.held, self.noun)}{each}; accumulation {self.accumulation}"
        budget = self.tokens * self.gpus_a_rank
        return (f"{who} {budget} tokens{each}, {counted(self.held, self.noun)} of full length; "
                f"accumulation {self.accumulation} at most")  # fmt: skip


def counted(number: int, noun: str) -> str:
    """`1 row`, `8 rows`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


GIB = 2**30
TYPICAL_FILL = 0.5  # of the longest sequence, where the data says nothing: sequences end before their limit
BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2}


@dataclass(frozen=True)
class TrainedModel:
    """A model under FSDP.

    `shard` GPUs share its parameters, `sequence_parallel` of them one sequence. `tokens` and `forward_tokens` are those
    of one micro batch on one GPU, with gradient and without. `logit_bytes` are bytes a logit: (in the loss, without gradient).
    `reshards`: layers are given back after their forward pass. `whole_gradients`: they are reduced once a mini batch.
    `outputs_values`: it is a critic, with one number a token in the place of the output layer.
    `dense_mask`: attention takes a mask over pairs of tokens. `row` is the length rows are padded to, 0 if they are packed.
    """

    name: str
    shape: Shape
    shard: int
    tokens: int
    forward_tokens: int
    logit_bytes: tuple[float, float] = (2, 2)
    sequence_parallel: int = 1
    lora_rank: int = 0
    master_bytes: int = 4
    compute_bytes: int = 2
    checkpointing: bool = True
    param_offload: bool = False
    optimizer_offload: bool = False
    offload_policy: bool = False
    fsdp2: bool = True
    reshards: bool = True
    outputs_values: bool = False
    whole_gradients: bool = False
    dense_mask: bool = False
    row: int = 0

    @property
    def outer_apart(self) -> bool:
        """Whether embedding and output layer are gathered each for itself: FSDP2, where they are not tied."""
        return self.fsdp2 and not self.shape.tied

    def mask_pairs(self, tokens: int) -> int:
        """Pairs of tokens in the dense attention mask of a micro batch of `tokens`."""
        return tokens * (self.row or tokens) if self.dense_mask else 0

    @property
    def trained_parameters(self) -> int:
        return self.shape.lora_parameters(self.lora_rank) if self.lora_rank else self.shape.parameters


@dataclass(frozen=True)
class RolloutEngine:
    """The vLLM engine that shares the GPUs: `share` of the device is its own while it generates.

    `sends_base`: under LoRA the base weights travel to it, too; `layered_summon`: adapters are gathered layer by layer.
    """

    shape: Shape
    tensor_parallel: int
    share: float
    sequence: int
    max_num_seqs: int = 256
    batched_tokens: int = 8192
    item: int = 2
    eager: bool = False
    bucket: float = 2 * GIB
    sends_base: bool = False
    layered_summon: bool = False
    keeps_weights: bool = False


@dataclass(frozen=True)
class Job:
    """One launch on one kind of GPU; memory in bytes."""

    gpus: int
    gpus_per_node: int
    memory: float
    host_memory: float
    models: tuple[TrainedModel, ...]
    rollout: RolloutEngine | None = None
    reference: Shape | None = None
    saves_model: bool = False


def micro_tokens(budget: int | None, micro: int | None, sequences: int, length: int, fill: float, split: int,
                 group: int = 1) -> int:  # fmt: skip
    """Tokens of one micro batch on one GPU, sequences split over `split` GPUs.

    A token budget (VeRL's dynamic batches) is filled as far as there are `sequences`; else `micro` groups of `group` sequences
    are. One group must always pass.
    """
    longest = -(-int(length * fill * group) // split)
    if budget is not None:
        return max(min(budget, int(sequences * length * fill / split)), longest)
    return max(int((micro or 1) * group * length * fill / split), longest)
