"""What each recipe's published setting fixes: a change of a recipe that drifts from it fails here.

Values are those that VeRL gets on the hardware the recipe is planned for. Keys that VeRL's default already gives are pinned
too where the setting names them, so that a new VeRL with other defaults is noticed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from posttrain_verl import paths, preflight
from posttrain_verl.compose import Composed, compose
from posttrain_verl.problem import blocking

ACTOR, ROLLOUT, REF = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.ref"
MODEL = "actor_rollout_ref.model"

# VeRL's examples/grpo_trainer for Qwen2-7B on 8 GPUs, of which docs/algo/baseline.md reports 89 and 89.8.
GRPO = {
    "algorithm.adv_estimator": "grpo",
    "algorithm.norm_adv_by_std_in_grpo": True,
    "algorithm.use_kl_in_reward": False,
    "data.train_batch_size": 1024,
    "data.filter_overlong_prompts": True,
    "data.truncation": "error",
    f"{ACTOR}.ppo_mini_batch_size": 256,
    f"{ACTOR}.optim.lr": 1e-6,
    f"{ACTOR}.use_kl_loss": True,
    f"{ACTOR}.kl_loss_coef": 0.001,
    f"{ACTOR}.kl_loss_type": "low_var_kl",
    f"{ACTOR}.entropy_coeff": 0,
    f"{ACTOR}.use_dynamic_bsz": True,
    f"{ACTOR}.ppo_max_token_len_per_gpu": 24576,
    f"{MODEL}.enable_gradient_checkpointing": True,
    f"{MODEL}.use_remove_padding": True,
    f"{REF}.fsdp_config.param_offload": True,
    f"{ROLLOUT}.n": 5,
    f"{ROLLOUT}.temperature": 1.0,
    f"{ROLLOUT}.tensor_model_parallel_size": 2,
    f"{ROLLOUT}.gpu_memory_utilization": 0.6,
    "trainer.total_epochs": 15,
    "trainer.test_freq": 5,
    "trainer.save_freq": 20,
}
SFT = {  # open math SFT: Open-R1, Tulu 3 and their kin
    "data.train_batch_size": 128,
    "optim.lr": 2e-5,
    "optim.lr_scheduler_type": "cosine",
    "optim.min_lr_ratio": 0.1,
    "optim.lr_warmup_steps_ratio": 0.01,
    "optim.betas": [0.9, 0.95],
    "optim.weight_decay": 0.1,
}


@dataclass(frozen=True)
class Published:
    """A setting: where it is published, the words that name its hardware, the model, and the keys it fixes."""

    source: str
    hardware: str
    model: str
    keys: Mapping[str, Any]


SETTINGS = {
    "math_grpo": Published(
        "VeRL examples/grpo_trainer (Qwen2-7B on maths) and docs/algo/baseline.md",
        "8xh100",
        "Qwen/Qwen2-7B-Instruct",
        GRPO | {"data.max_prompt_length": 1024, "data.max_response_length": 1024},
    ),
    "gsm8k_grpo": Published(
        "VeRL examples/grpo_trainer/run_qwen2-7b_seq_balance.sh, docs/algo/baseline.md",
        "8xh100",
        "Qwen/Qwen2-7B-Instruct",
        GRPO | {"data.max_prompt_length": 512, "data.max_response_length": 1024},
    ),
    "math_grpo_lora": Published(
        "VeRL docs/algo/baseline.md, GRPO-LoRA rows: bsz64, prompt512, resp1024, lorarank32",
        "1x80gb",
        "Qwen/Qwen2.5-3B-Instruct",
        {
            "algorithm.adv_estimator": "grpo",
            "data.train_batch_size": 64,
            "data.max_prompt_length": 512,
            "data.max_response_length": 1024,
            f"{MODEL}.lora_rank": 32,
            f"{MODEL}.lora_alpha": 32,
            f"{MODEL}.target_modules": "all-linear",
            f"{ACTOR}.ppo_mini_batch_size": 64,
            f"{ACTOR}.optim.lr": 3e-5,
            f"{ACTOR}.use_kl_loss": True,
            f"{ACTOR}.kl_loss_coef": 0.001,
            f"{ACTOR}.fsdp_config.param_offload": True,
            f"{ACTOR}.fsdp_config.optimizer_offload": True,
            f"{ROLLOUT}.n": 5,
            f"{ROLLOUT}.load_format": "safetensors",
            f"{ROLLOUT}.layered_summon": True,
            f"{ROLLOUT}.gpu_memory_utilization": 0.2,
        },
    ),
    "code_grpo": Published(
        "code-r1 (ganler/code-r1), Qwen2.5-7B-Instruct-1M on 8 H200",
        "8xh100",
        "Qwen/Qwen2.5-7B-Instruct-1M",
        {
            "algorithm.adv_estimator": "grpo",
            "data.train_batch_size": 16,
            "data.max_prompt_length": 2048,
            "data.max_response_length": 4096,
            f"{ACTOR}.ppo_mini_batch_size": 16,
            f"{ACTOR}.optim.lr": 5e-7,
            f"{ACTOR}.use_kl_loss": True,
            f"{ACTOR}.kl_loss_coef": 0.001,
            f"{ROLLOUT}.n": 16,
            f"{ROLLOUT}.gpu_memory_utilization": 0.5,
            "trainer.total_epochs": 8,
        },
    ),
    "math_dapo": Published(
        "verl-recipe dapo/test_dapo_7b_math.sh, docs/algo/baseline.md: 64 GPUs, AIME24 36.3",
        "8xh100 trainer.nnodes=8",
        "Qwen/Qwen2.5-Math-7B",
        {
            "algorithm.adv_estimator": "grpo",
            "algorithm.filter_groups.enable": True,
            "algorithm.filter_groups.metric": "acc",
            "algorithm.use_kl_in_reward": False,
            "trainer.v1.sampler.sampler_kwargs.filter_groups.enable": True,  # what our sampler reads
            "data.train_batch_size": 512,
            "data.max_prompt_length": 2048,
            "data.max_response_length": 8192,
            "reward.reward_manager.name": "dapo",
            "reward.reward_kwargs.max_resp_len": 8192,
            "reward.reward_kwargs.overlong_buffer_cfg.enable": True,
            "reward.reward_kwargs.overlong_buffer_cfg.len": 4096,
            "reward.reward_kwargs.overlong_buffer_cfg.penalty_factor": 1.0,
            f"{MODEL}.override_config.max_position_embeddings": 32768,
            f"{ACTOR}.ppo_mini_batch_size": 32,
            f"{ACTOR}.clip_ratio_low": 0.2,
            f"{ACTOR}.clip_ratio_high": 0.28,
            f"{ACTOR}.clip_ratio_c": 10.0,
            f"{ACTOR}.loss_agg_mode": "token-mean",
            f"{ACTOR}.use_kl_loss": False,
            f"{ACTOR}.optim.lr": 1e-6,
            f"{ACTOR}.optim.lr_warmup_steps": 10,
            f"{ACTOR}.optim.weight_decay": 0.1,
            f"{ACTOR}.ulysses_sequence_parallel_size": 4,
            f"{ACTOR}.fsdp_config.param_offload": True,
            f"{ACTOR}.fsdp_config.optimizer_offload": True,
            f"{ROLLOUT}.n": 16,
            f"{ROLLOUT}.tensor_model_parallel_size": 4,
            f"{ROLLOUT}.gpu_memory_utilization": 0.8,
            f"{ROLLOUT}.val_kwargs.top_p": 0.7,
            f"{ROLLOUT}.engine_kwargs.vllm.hf_overrides.max_position_embeddings": 32768,
            "trainer.total_training_steps": 200,
        },
    ),
    "math_ppo": Published(
        "VeRL docs/algo/baseline.md: Qwen2.5-0.5B-bsz256, prompt1024, resp512, 56.7",
        "1x80gb",
        "Qwen/Qwen2.5-0.5B-Instruct",
        {
            "algorithm.adv_estimator": "gae",
            "data.train_batch_size": 256,
            "data.max_prompt_length": 1024,
            "data.max_response_length": 512,
            "critic.ppo_mini_batch_size": 64,
            "critic.optim.lr": 1e-5,
            f"{ACTOR}.ppo_mini_batch_size": 64,
            f"{ACTOR}.optim.lr": 1e-6,
            f"{ROLLOUT}.n": 1,
            "trainer.total_epochs": 15,
        },
    ),
    "math_drgrpo": Published(
        "Liu et al. 2025 (arXiv 2503.20783), sail-sg/understand-r1-zero examples/qwen2.5-math-7b.sh; VeRL docs/algo/grpo.md",
        "8xh100",
        "Qwen/Qwen2.5-Math-7B",
        {
            "algorithm.adv_estimator": "grpo",
            "algorithm.norm_adv_by_std_in_grpo": False,
            "algorithm.use_kl_in_reward": False,
            "data.train_batch_size": 128,
            "data.max_prompt_length": 1024,
            "data.max_response_length": 3000,
            f"{ACTOR}.ppo_mini_batch_size": 128,
            f"{ACTOR}.loss_agg_mode": "seq-mean-token-sum-norm",
            f"{ACTOR}.loss_scale_factor": 3000,
            f"{ACTOR}.use_kl_loss": False,
            f"{ACTOR}.optim.lr": 1e-6,
            f"{ACTOR}.optim.lr_scheduler_type": "constant",
            f"{ROLLOUT}.n": 8,
            f"{ROLLOUT}.temperature": 1.0,
            "trainer.total_epochs": 20,
        },
    ),
    "math_gspo": Published(
        "VeRL examples/gspo_trainer/test_gspo_3b_math.sh; clipping of Zheng et al. 2025 (arXiv 2507.18071), section 5.1",
        "8xh100",
        "Qwen/Qwen2.5-3B-Instruct",
        {
            "algorithm.adv_estimator": "grpo",
            "data.train_batch_size": 512,
            "data.max_prompt_length": 2048,
            "data.max_response_length": 8192,
            f"{ACTOR}.ppo_mini_batch_size": 128,
            f"{ACTOR}.policy_loss.loss_mode": "gspo",
            f"{ACTOR}.loss_agg_mode": "seq-mean-token-mean",
            f"{ACTOR}.clip_ratio_low": 3e-4,
            f"{ACTOR}.clip_ratio_high": 4e-4,
            f"{ACTOR}.use_kl_loss": False,
            f"{ACTOR}.optim.lr": 1e-6,
            f"{ACTOR}.optim.lr_warmup_steps_ratio": 0.05,
            f"{ACTOR}.optim.weight_decay": 0.1,
            f"{ROLLOUT}.n": 16,
            f"{ROLLOUT}.gpu_memory_utilization": 0.8,
            "trainer.total_epochs": 10,
        },
    ),
    "math_rloo": Published(
        "VeRL examples/rloo_trainer/run_qwen2-7b.sh",
        "8xh100",
        "Qwen/Qwen2-7B-Instruct",
        {
            "algorithm.adv_estimator": "rloo",
            "algorithm.use_kl_in_reward": True,
            "algorithm.kl_penalty": "kl",
            "algorithm.kl_ctrl.kl_coef": 0.001,
            "data.train_batch_size": 1024,
            "data.max_prompt_length": 512,
            "data.max_response_length": 1024,
            f"{ACTOR}.ppo_mini_batch_size": 256,
            f"{ACTOR}.use_kl_loss": False,
            f"{ACTOR}.optim.lr": 1e-6,
            f"{ROLLOUT}.n": 5,
            f"{ROLLOUT}.tensor_model_parallel_size": 2,
            f"{ROLLOUT}.gpu_memory_utilization": 0.6,
            "trainer.total_epochs": 15,
        },
    ),
    "math_sft": Published("range of open math SFT", "8xh100", "Qwen/Qwen2.5-7B-Instruct", SFT),
    "math_sft_lora": Published(
        "ten times the rate of full fine-tuning",
        "1x80gb",
        "Qwen/Qwen2.5-7B-Instruct",
        SFT | {"optim.lr": 2e-4, "model.lora_rank": 32, "model.lora_alpha": 32, "model.target_modules": "all-linear"},
    ),
    "code_sft": Published("as math_sft", "8xh100", "Qwen/Qwen2.5-Coder-7B-Instruct", SFT),
}


def test_every_recipe_of_the_library_is_in_the_table():
    library = {path.stem for path in paths.recipes_dir().glob("*.yaml") if not path.stem.startswith("demo_")}
    assert set(SETTINGS) == library


def on_its_hardware(name: str, *words: str) -> Composed:
    return compose([f"recipe={name}", *f"hardware={SETTINGS[name].hardware}".split(), *words])


@pytest.mark.parametrize("name", SETTINGS)
def test_the_recipe_is_the_published_setting(name):
    composed, setting = on_its_hardware(name), SETTINGS[name]
    assert composed.model == setting.model
    found = {key: OmegaConf.select(composed.verl, key) for key in setting.keys}
    assert {
        key: OmegaConf.to_object(value) if OmegaConf.is_config(value) else value for key, value in found.items()
    } == setting.keys


@pytest.mark.parametrize("name", SETTINGS)
def test_the_header_names_hardware_and_evaluations(name):
    header = [line for line in (paths.recipes_dir() / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    run, needs = (next(line for line in header if line.startswith(word)) for word in ("# Run:", "# Needs:"))
    assert run.endswith(f"recipe={name} hardware={SETTINGS[name].hardware}")
    assert "GPU" in needs and "measured" in needs
    assert on_its_hardware(name).posttrain.evals


ROWS = 12_000  # what the longest schedule asks for: 200 steps of 512 in ten epochs


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five files of every mix, with one row often repeated."""
    folder = tmp_path_factory.mktemp("data")
    extra = {"split": "rl_train", "index": 0, "id": "0"}
    question, answer = {"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}
    rl = {"data_source": "openai/gsm8k", "prompt": [question], "ability": "math",
          "reward_model": {"style": "rule", "ground_truth": "2"}, "extra_info": extra}  # fmt: skip
    sft = {"messages": [question, answer], "extra_info": extra}
    for stage, row in (("rl", rl), ("sft", sft)):
        pq.write_table(pa.Table.from_pylist([row] * ROWS), folder / f"{stage}.parquet")
    for mix in ("math", "gsm8k", "math_l3to5", "dapo_math", "code"):
        (folder / mix).mkdir()
        for file in ("rl_train", "rl_val", "sft_train", "sft_val"):
            (folder / mix / f"{file}.parquet").hardlink_to(folder / f"{file.partition('_')[0]}.parquet")
    return folder


# What these files cannot show, or a hub would have to be asked for.
ABOUT_REAL_DATA = ("disk",)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_recipe_can_launch_on_its_hardware(name, data_dir):
    composed = on_its_hardware(name, f"posttrain.data_dir={data_dir}")
    assert blocking(preflight.run(composed, skip=ABOUT_REAL_DATA).problems) == []


@pytest.mark.parametrize("name", SETTINGS)
def test_the_recipe_can_launch_on_a_cpu(name, tmp_path):
    composed = compose([f"recipe={name}", "hardware=cpu", f"posttrain.data_dir={tmp_path}"])
    assert blocking(preflight.run(composed).problems) == []
