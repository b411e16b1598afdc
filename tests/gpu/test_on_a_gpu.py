"""What only an accelerator shows. Skipped where there is none; `python -m posttrain_verl.first_gpu_hour` runs these first."""

import json
import os
import subprocess
import sys

import pytest

from posttrain_verl.export.weights import ensure_weights
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.output import metrics_by_step

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", autouse=True)
def accelerator() -> None:
    import torch  # here, so that collecting these tests costs nothing

    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    if os.environ.get("VERL_PLATFORM") == "cpu":
        pytest.skip("VERL_PLATFORM=cpu asks for the CPU backend")


def launch(folder, *words):
    """Two steps of the embedded SmolLM2 on the embedded data; returns the metrics of each."""
    command = [sys.executable, "-m", "posttrain_verl.launch", "base_model=smollm2_135m", "mix=embedded", "posttrain.run_id=it",
               f"posttrain.runs_dir={folder}", f"posttrain.data_dir={folder}/data", "trainer.total_training_steps=2",
               "trainer.save_freq=2", "trainer.test_freq=-1", *words]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    recipe = words[0].partition("=")[2]
    run = RunFolder(folder / recipe / "it")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return metrics_by_step(run.metrics), run


SMALL = ("data.train_batch_size=16", "actor_rollout_ref.actor.ppo_mini_batch_size=16", "trainer.val_before_train=false",
         "actor_rollout_ref.rollout.tensor_model_parallel_size=1")  # fmt: skip


def test_check_finds_the_gpus_of_this_process():
    done = subprocess.run([sys.executable, "-m", "posttrain_verl.check", "recipe=math_sft", "mix=embedded", "--json"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert json.loads(done.stdout)["hardware"] != "cpu"


def test_sft_saves_a_model_that_transformers_reads(tmp_path):
    from transformers import AutoModelForCausalLM

    metrics, run = launch(tmp_path, "recipe=math_sft", "data.train_batch_size=16")
    assert all(step["train/loss"] > 0 for step in metrics.values())
    AutoModelForCausalLM.from_pretrained(ensure_weights(run))


@pytest.mark.parametrize("recipe", ["gsm8k_grpo", "math_grpo_lora"])
def test_vllm_samples_from_the_weights_that_are_trained(tmp_path, recipe):
    metrics, _ = launch(tmp_path, f"recipe={recipe}", *SMALL)
    for step in metrics.values():
        assert step["training/rollout_actor_probs_pearson_corr"] > 0.98, "bf16 rollouts, fp32 masters"
        assert any(key.endswith("max_memory_allocated_gb") and value > 0.1 for key, value in step.items())


def test_packed_rows_agree_with_padded_ones(tmp_path):
    """Packed rows are for GPUs, under flash-attention where it is installed: the loss is that of padded rows."""
    losses = []
    for packed in ("true", "false"):
        words = ("recipe=math_sft", "data.train_batch_size=16", f"model.use_remove_padding={packed}")
        losses.append(launch(tmp_path / packed, *words)[0][1]["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
