"""Rows of preference data as VeRL's engine takes them: of each pair two sequences, one after the other.

A row of the Parquet has a prompt, a chosen answer and a rejected one. VeRL's own data set of conversations renders them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import Dataset
from verl.utils.dataset.dataset_utils import SFTTensorCollator
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset, convert_nested_value_to_list_recursive
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

SIDES = ("chosen", "rejected")
PAIR = len(SIDES)  # sequences of a pair
REFERENCE = "reference_log_probs"  # of a batch: (sequences,)

Rows = Mapping[str, Tensor]


class AnswerData(MultiTurnSFTDataset):
    """The conversations of a prompt and the answer in the column `messages_key`. Only the answer has a loss."""

    prompt_key: str

    def for_column(self, column: str) -> AnswerData:
        """The same rows with the answers of another column."""
        other = copy.copy(self)
        other.messages_key = column
        return other

    def _build_messages(self, example: dict[str, Any]) -> list[dict[str, Any]]:
        prompt = convert_nested_value_to_list_recursive(example[self.prompt_key])
        return super()._build_messages(example | {self.messages_key: [*prompt, *_as_turns(example[self.messages_key])]})

    def _process_single_message(self, index: int, message: dict[str, Any], full_message: list[Any], *args: Any,
                                **kwargs: Any) -> Any:  # fmt: skip
        ids, loss_mask, *rest = super()._process_single_message(index, message, full_message, *args, **kwargs)
        is_answer = index == len(full_message) - 1
        return ids, loss_mask if is_answer else torch.zeros_like(loss_mask), *rest


def _as_turns(value: Any) -> list[dict[str, Any]]:
    """Turns as they are, and a plain text as one turn of the assistant."""
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    turns: list[dict[str, Any]] = convert_nested_value_to_list_recursive(value)
    return turns


class PairData(Dataset):
    """Pairs of Parquet files: each is the rows of its two sides, and their reference log-probabilities once these are set.

    `config` is the node `data` of the config. It names the columns, the length and the template arguments.
    """

    def __init__(self, files: Any, config: DictConfig, tokenizer: Any, processor: Any, max_samples: int):
        node = copy.deepcopy(config)
        node.messages_key = config.chosen_key
        first = AnswerData(files, tokenizer, node, processor=processor, max_samples=max_samples)
        first.prompt_key = config.prompt_key
        self.sides = {"chosen": first, "rejected": first.for_column(config.rejected_key)}
        self.files: list[str] = list(first.parquet_files)
        self.reference: np.ndarray | None = None  # (pairs, 2), fp32

    def __len__(self) -> int:
        return len(self.sides["chosen"])

    def __getitem__(self, place: int) -> dict[str, Any]:
        row: dict[str, Any] = {side: rows[place] for side, rows in self.sides.items()}
        return row if self.reference is None else row | {REFERENCE: self.reference[place]}


def without_answers(pair: Mapping[str, Any]) -> dict[str, Any]:
    """The same pair without a token that counts: it fills up a batch."""
    return {**pair, **{side: pair[side] | {"loss_mask": torch.zeros_like(pair[side]["loss_mask"])} for side in SIDES}}


class PairCollator:
    """Makes a batch of 2 x pairs sequences, in which chosen and rejected take turns."""

    def __init__(self, pad_mode: Any):
        self._collate = SFTTensorCollator(pad_mode)

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = self._collate([pair[side] for pair in pairs for side in SIDES])
        if REFERENCE in pairs[0]:
            batch[REFERENCE] = torch.from_numpy(np.concatenate([pair[REFERENCE] for pair in pairs]))
        return batch


def count_pairs(batch: Mapping[str, Any]) -> int:
    """The pairs of a batch that have an answer on both sides: the others fill it up or were cut off."""
    answered = torch.tensor([bool(mask.any()) for mask in batch["loss_mask"].unbind()])
    return int(answered.view(-1, PAIR).all(dim=1).sum())


def balance_pairs(lengths: Tensor, ranks: int) -> Tensor:
    """The order of the sequences, (2 x pairs,), in which each rank gets as many pairs and about as much work.

    VeRL's `balance_batch` balances single rows, and would put the two of a pair on different ranks.
    """
    work = calculate_workload(lengths.float()).view(-1, PAIR).sum(dim=1).tolist()
    parts = get_seqlen_balanced_partitions(work, k_partitions=ranks, equal_size=True)
    pairs = torch.tensor([pair for part in parts for pair in sorted(part)])
    return (pairs[:, None] * PAIR + torch.arange(PAIR)).flatten()
