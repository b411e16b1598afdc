"""SFT with VeRL's Ray trainer: the order of the rows, the loss, the export, and going on from a checkpoint."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain_verl.export.weights import ensure_weights

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
SUMS = 'from: column_sums, data_source: embedded/chain_sum, operators: ["+"]'
DIGITS = "params: {min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 1}"
# Two steps of short rows, then two of long ones; 12 rows of validation are one batch and a half.
CURRICULUM = [
    "posttrain.mix.name=curriculum", "posttrain.mix.offline=true", "posttrain.mix.sources.sums.size=6000",
    f"+posttrain.mix.sources.short={{{SUMS}, {DIGITS}, size: 1000}}",
    "posttrain.mix.splits.sft_train={rows: 32, stages: [{sources: {short: 1}}, {sources: {sums: 1}}]}",
    "posttrain.mix.splits.rl_train.rows=64", "posttrain.mix.splits.sft_val.rows=12", "trainer.test_freq=2",
]  # fmt: skip


def test_sft_trains_a_curriculum_exports_a_model_and_resumes(launch):
    first = launch("math_sft", *CURRICULUM)
    first.assert_done([1, 2])
    assert all(math.isfinite(metrics["train/loss"]) and metrics["train/loss"] > 0 for metrics in first.metrics.values())

    exported = ensure_weights(first.folder)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    model = AutoModelForCausalLM.from_pretrained(exported)
    logits = model(**tokenizer("12+34=", return_tensors="pt")).logits
    assert logits.isfinite().all()
    config = OmegaConf.load(first.folder.config)
    held_out = rows_of(config.data.val_files, tokenizer)
    assert first.metrics[2]["val/loss"] == pytest.approx(
        (mean_loss(model, held_out[:6]) + mean_loss(model, held_out[6:])) / 2, rel=1e-3
    )

    checkpoint = first.folder.checkpoints / "global_step_2"
    resumed = launch("math_sft", *CURRICULUM, "trainer.total_training_steps=4", "trainer.save_freq=4",
                     "trainer.resume_mode=resume_path", f"trainer.resume_from_path={checkpoint}")  # fmt: skip
    resumed.assert_done([3, 4])
    assert (resumed.folder.checkpoints / "global_step_4").is_dir()

    rows = rows_of(config.data.train_files, tokenizer)
    tokens = [sum(len(row["input_ids"]) for row in rows[first : first + 8]) for first in (0, 8, 16, 24)]
    assert max(tokens[:2]) < min(tokens[2:])
    trained = [
        run.metrics[step]["train/global_tokens"] for run, step in ((first, 1), (first, 2), (resumed, 3), (resumed, 4))
    ]
    assert trained == tokens


def rows_of(file: str, tokenizer: Any) -> list[dict[str, torch.Tensor]]:
    """The rows of a file in its order, as VeRL makes them."""
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    assert Path(file).is_file()
    data = MultiTurnSFTDataset(file, tokenizer, OmegaConf.create({"max_length": 96, "pad_mode": "no_padding"}))
    return [data[number] for number in range(len(data))]


def mean_loss(model: Any, rows: list[dict[str, torch.Tensor]]) -> float:
    """The mean over all tokens that are learnt."""
    losses, count = 0.0, 0
    for row in rows:
        learnt = row["loss_mask"][1:].bool()
        with torch.no_grad():
            logits = model(row["input_ids"][None]).logits[0, :-1].float()
        losses += torch.nn.functional.cross_entropy(
            logits[learnt], row["input_ids"][1:][learnt], reduction="sum"
        ).item()
        count += int(learnt.sum())
    return losses / count
