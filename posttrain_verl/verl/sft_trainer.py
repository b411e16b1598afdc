"""VeRL's SFT trainer, with training rows in the order that `data.shuffle` says, and with every row of validation scored.

VeRL 0.9.1 shuffles the training rows whatever the config says, and drops the last incomplete batch of a validation. A validation
set that is smaller than a batch would have no batch at all, and its mean would end the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from torch.utils.data import Dataset
from verl.trainer.sft_trainer_ray import SFTTrainer

Row = Mapping[str, Any]


def without_loss(row: Row) -> Row:
    """The same row with an empty loss mask, which VeRL's loss adds as 0 and does not count."""
    return {**row, "loss_mask": torch.zeros_like(row["loss_mask"])}


class WholeBatches(Dataset):
    """A data set filled up to whole batches of `size` with rows that no loss is taken of.

    Each row stands in it once, in its order. Fillers are spread evenly, so that every batch and every GPU has about as many
    rows: VeRL averages over batches. A filler is what `blank` makes of the row before it.
    """

    def __init__(self, rows: Any, size: int, blank: Callable[[Row], Row] = without_loss):
        self.rows, self.count, self.blank = rows, len(rows), blank
        self.length = -(-self.count // size) * size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> Row:
        row = self.rows[self._number(place)]
        return row if self._is_row(place) else self.blank(row)

    def places(self) -> list[int]:
        """Where each row stands; the others are fillers."""
        return [place for place in range(self.length) if self._is_row(place)]

    def _number(self, place: int) -> int:
        return place * self.count // self.length

    def _is_row(self, place: int) -> bool:
        return self._number(place + 1) > self._number(place)


class OrderedTrainer(SFTTrainer):
    """`SFTTrainer` that shuffles only where `data.shuffle` says so, and validates on every row."""

    val_dataset: Any

    def __init__(self, config: DictConfig):
        # VeRL's data set would read the key, too: as drawing `max_samples` rows by chance, others in each attempt.
        self.shuffles = bool(config.data.pop("shuffle", True))  # a run from before the key was read
        super().__init__(config)

    def _build_dataset(self) -> None:
        super()._build_dataset()
        if self.val_dataset:
            self.val_dataset = WholeBatches(self.val_dataset, self.config.data.train_batch_size)

    def _build_dataloader(self) -> None:
        super()._build_dataloader()
        self.train_sampler.shuffle = self.shuffles  # of a DistributedSampler, which reads it when an epoch begins
