"""Whether a config's numbers are numbers. The plan is made before the checks that name what is wrong, and must not trip."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from posttrain_verl.verl import parallelism

ACTOR, ROLLOUT, CRITIC = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "critic"
COUNTS = {
    "rl": ("data.max_prompt_length", "data.max_response_length", f"{ACTOR}.ppo_mini_batch_size",
           f"{ACTOR}.ulysses_sequence_parallel_size", parallelism.ACTOR_KEY, f"{ACTOR}.ppo_max_token_len_per_gpu", f"{ROLLOUT}.n",
           f"{ROLLOUT}.tensor_model_parallel_size", f"{ROLLOUT}.max_num_seqs", f"{ROLLOUT}.max_num_batched_tokens",
           f"{ROLLOUT}.log_prob_max_token_len_per_gpu", f"{CRITIC}.ppo_mini_batch_size",
           parallelism.CRITIC_KEY, f"{CRITIC}.ppo_max_token_len_per_gpu"),
    "sft": ("data.max_length", "data.max_token_len_per_gpu", parallelism.SFT_KEY),
}  # fmt: skip
NUMBERS = {
    "rl": (f"{ACTOR}.optim.lr", f"{ACTOR}.entropy_coeff", f"{ACTOR}.fsdp_config.fsdp_size", f"{CRITIC}.fsdp.fsdp_size",
           f"{ROLLOUT}.gpu_memory_utilization", "actor_rollout_ref.model.lora_rank", f"{CRITIC}.model.lora_rank"),
    "sft": ("optim.lr", "engine.fsdp_size", "model.lora_rank"),
}  # fmt: skip
COUNTS_OR_NULL = {
    "rl": (f"{ACTOR}.ppo_micro_batch_size_per_gpu", f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu",
           f"{CRITIC}.ppo_micro_batch_size_per_gpu", f"{ROLLOUT}.max_model_len",
           f"{ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes"),
    "sft": ("data.micro_batch_size_per_gpu",),
}  # fmt: skip
NODES_OR_NULL = {
    "rl": (f"{ACTOR}.fsdp_config.mixed_precision", f"{CRITIC}.fsdp.mixed_precision"),
    "sft": ("engine.mixed_precision",),
}
ALWAYS = ("trainer.nnodes", "trainer.n_gpus_per_node", "data.train_batch_size")


def is_readable(stage: str, config: DictConfig) -> bool:
    """Whether everything that the plan reads of VeRL's config has the kind that it reads."""
    return (
        all(_is_count(_at(config, key)) for key in (*ALWAYS, *COUNTS[stage]))
        and all(_is_number(_at(config, key)) for key in NUMBERS[stage])
        and all((value := _at(config, key)) is None or _is_count(value) for key in COUNTS_OR_NULL[stage])
        and all((value := _at(config, key)) is None or OmegaConf.is_dict(value) for key in NODES_OR_NULL[stage])
        and (stage == "sft" or OmegaConf.is_dict(_at(config, "algorithm")))
    )


def _at(config: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(config, key)
    except OmegaConfBaseException:  # a value where a node should be, or an interpolation that leads nowhere
        return "unreadable"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
