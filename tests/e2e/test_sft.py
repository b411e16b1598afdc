"""SFT with VeRL's Ray trainer: the loss, the export, and going on from a checkpoint."""

import math

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain_verl.export.weights import ensure_weights

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_sft_exports_a_model_and_resumes(launch):
    first = launch("math_sft")
    first.assert_done([1, 2])
    assert all(math.isfinite(metrics["train/loss"]) and metrics["train/loss"] > 0 for metrics in first.metrics.values())

    exported = ensure_weights(first.folder)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    model = AutoModelForCausalLM.from_pretrained(exported)
    logits = model(**tokenizer("12+34=", return_tensors="pt")).logits
    assert logits.isfinite().all()

    checkpoint = first.folder.checkpoints / "global_step_2"
    resumed = launch("math_sft", "trainer.total_training_steps=4", "trainer.save_freq=4",
                     "trainer.resume_mode=resume_path", f"trainer.resume_from_path={checkpoint}")  # fmt: skip
    resumed.assert_done([3, 4])
    assert (resumed.folder.checkpoints / "global_step_4").is_dir()
