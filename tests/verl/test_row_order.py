"""The rows that VeRL's own loaders give, built by its trainers from a composed launch: a curriculum in its order, any other mix
shuffled, and every row of validation."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf

import data_prep
from posttrain_verl import base_models
from posttrain_verl.compose import compose

pytestmark = pytest.mark.slow  # imports VeRL

STAGES = "stages: [{name: easy, share: 1, difficulty: [0, 0]}, {name: hard, share: 2, difficulty: [1, 9]}]"
ONE_STAGE = "stages: [{name: all, share: 1}]"
IN_ORDER, SHUFFLED = True, False


def prepared(tmp_path: Path, recipe: str, split: str, stages: str, *words: str) -> DictConfig:
    """The config that VeRL gets, with the data of its mix built: 96 rows of training and 20 of validation."""
    composed = compose([
        f"recipe={recipe}", "hardware=cpu", "base_model=tiny", "mix=embedded", f"posttrain.data_dir={tmp_path}",
        f"posttrain.runs_dir={tmp_path}", f"posttrain.mix.splits.{split}_train={{rows: 96, {stages}}}",
        f"posttrain.mix.splits.{split}_val.rows=20", "data.train_batch_size=16", *words,
    ])  # fmt: skip
    mix: Any = OmegaConf.to_container(composed.posttrain.mix)
    data_prep.build(mix, composed.data_dir)
    return composed.for_run(composed.run_dir(), base_models.ensure_model("tiny"))


def sft_trainer(config: DictConfig) -> Any:
    """The trainer of a run without the workers that it would start on Ray."""
    from posttrain_verl.verl.sft_trainer import OrderedTrainer

    class Unstaffed(OrderedTrainer):
        resume_global_step = 0

        def _build_engine(self) -> None:
            self.training_client = None

        def _build_ckpt_handler(self) -> None:
            self.ckpt_handler = self

        def load_checkpoint(self) -> int:
            return 0

    return Unstaffed(config)


def rows_of(batches: Any) -> list[tuple[int, ...]]:
    return [tuple(row.tolist()) for batch in batches for row in batch["input_ids"].unbind()]


@pytest.mark.parametrize(("stages", "expected"), [(STAGES, IN_ORDER), (ONE_STAGE, SHUFFLED)])
def test_the_rows_of_sft(tmp_path, stages, expected):
    """Of a set that is cut short, VeRL takes the first rows, shuffled or not: the same in every attempt."""
    config = prepared(tmp_path, "math_sft", "sft", stages, "data.train_max_samples=64")
    trainer = sft_trainer(config)
    assert trainer.train_dataset.messages == pq.read_table(config.data.train_files)["messages"].to_pylist()[:64]
    written = [tuple(trainer.train_dataset[number]["input_ids"].tolist()) for number in range(64)]
    seen = rows_of(trainer.train_dataloader)
    assert sorted(seen) == sorted(written)
    assert (seen == written) == expected
    trainer._build_dataloader()  # as a run that resumes at the end of an epoch does
    assert (rows_of(trainer.train_dataloader) == written) == expected

    validated = [[mask.any().item() for mask in batch["loss_mask"].unbind()] for batch in trainer.val_dataloader]
    assert [len(batch) for batch in validated] == [16, 16], "the GPUs share a batch evenly only if it is whole"
    assert [sum(batch) for batch in validated] == [10, 10], "20 rows, each with the weight of the others"


@pytest.mark.parametrize(
    ("rows", "size", "rows_a_batch"),
    [(100, 128, [100]), (200, 128, [100, 100]), (20, 8, [6, 7, 7]), (20, 10, [10, 10]), (1, 4, [1]), (4, 1, [1] * 4)],
)
def test_a_set_is_filled_up_to_whole_batches(rows, size, rows_a_batch):
    import torch

    from posttrain_verl.verl.sft_trainer import WholeBatches

    whole = WholeBatches([{"number": number, "loss_mask": torch.tensor([0, 1])} for number in range(rows)], size)
    items = [whole[place] for place in range(len(whole))]
    assert [item["number"] for item in items if item["loss_mask"].any()] == list(range(rows))
    batches = [items[first : first + size] for first in range(0, len(items), size)]
    assert [sum(int(item["loss_mask"].sum()) for item in batch) for batch in batches] == rows_a_batch
    assert {len(batch) for batch in batches} == {size}


@pytest.mark.parametrize(("stages", "expected"), [(STAGES, IN_ORDER), (ONE_STAGE, SHUFFLED)])
def test_the_rows_of_rl(tmp_path, stages, expected):
    from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

    config = prepared(tmp_path, "math_grpo", "rl", stages, "actor_rollout_ref.actor.ppo_mini_batch_size=16")
    trainer = PPOTrainerSync.__new__(PPOTrainerSync)  # its own __init__ starts workers on Ray
    trainer.config, trainer.trainer_mode, trainer.parameter_sync_step = config, "sync", 1
    trainer._init_tokenizer()
    trainer._init_dataloader()
    seen = [int(index) for batch in trainer.train_dataloader for index in batch["index"]]
    assert sorted(seen) == list(range(96))
    assert (seen == list(range(96))) == expected
    assert sum(len(batch["index"]) for batch in trainer.val_dataloader) == 20
