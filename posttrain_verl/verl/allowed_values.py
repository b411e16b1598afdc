"""The values that VeRL 0.9.1, vLLM or torch accept: names that somebody registers, ranges of numbers, and what must be installed.

Keys are those of VeRL 0.9.1; a renamed one has the rules of its old name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import cache

from posttrain_verl.verl.renamed import our_key
from posttrain_verl.verl.schema import compared_values, listed_names, registered_names
from posttrain_verl.verl.stage import Settings

Names = Callable[[], tuple[str, ...]]


def _fixed(*names: str) -> Names:
    return lambda: names


def _torch_dtypes() -> tuple[str, ...]:
    lists = ("HALF_LIST", "FLOAT_LIST", "BFLOAT_LIST")
    return tuple(name for each in lists for name in listed_names("verl.utils.torch_dtypes", each))


def _engine_strategies() -> tuple[str, ...]:
    return compared_values("verl.workers.config.FSDPEngineConfig").get("strategy", ())


KL = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")  # core_algos.kl_penalty_forward

# Which names a key takes, by pattern of the key. Of a list each item is one. First what VeRL looks up, by where it does.
NAMES: dict[str, Names] = {
    "algorithm.adv_estimator": lambda: registered_names("verl.trainer.ppo.core_algos", "register_adv_est"),
    "actor_rollout_ref.actor.policy_loss.loss_mode":
        lambda: registered_names("verl.trainer.ppo.core_algos", "register_policy_loss"),
    "algorithm.kl_penalty": _fixed(*KL),
    "*.kl_loss_type": _fixed(*KL, *(f"{name}+" for name in KL)),
    "algorithm.kl_ctrl.type": _fixed("fixed", "adaptive"),  # core_algos.get_kl_controller
    "algorithm.rollout_correction.rollout_is": _fixed("token", "sequence"),
    "algorithm.rollout_correction.loss_type": _fixed("ppo_clip", "reinforce"),
    "actor_rollout_ref.actor.strategy": _engine_strategies,
    "critic.strategy": _engine_strategies,
    "*.mixed_precision.*_dtype": _torch_dtypes,
    "*.model_dtype": _torch_dtypes,
    "*.checkpoint.save_contents": _fixed("model", "optimizer", "extra", "hf_model"),  # CheckpointConfig
    "*.checkpoint.load_contents": _fixed("model", "optimizer", "extra", "hf_model"),
    "checkpoint.*_contents": _fixed("model", "optimizer", "extra", "hf_model"),
    "*.rollout.name": lambda: listed_names("verl.workers.rollout.base", "_ROLLOUT_REGISTRY"),
    "*.rollout.mode": _fixed("async"),  # RolloutConfig.__post_init__
    "*.rollout.quantization": _fixed("fp8", "torchao", "ascend"),  # vllm_async_server
    "*.rollout.checkpoint_engine.backend":
        lambda: registered_names("verl.checkpoint_engine", "CheckpointEngineRegistry.register"),
    "*.rollout.agent.default_agent_loop": lambda: registered_names("verl.experimental.agent_loop", "register"),
    "*.rollout.multi_turn.format": lambda: registered_names("verl.experimental.agent_loop.tool_parser", "ToolParser.register"),
    "*.rollout.multi_turn.tool_response_truncate_side": _fixed("left", "middle", "right"),
    "reward.reward_manager.source": _fixed("register", "importlib"),
    "reward.reward_manager.name": lambda: tuple(
        name for decorator in ("register", "register_manager")
        for name in registered_names("verl.experimental.reward_loop.reward_manager", decorator)),
    "trainer.v1.trainer_mode": lambda: registered_names("verl.trainer.ppo.v1", "register_trainer"),
    "trainer.v1.sampler.max_off_policy_strategy": _fixed("drop", "wait"),  # ReplayBuffer
    "trainer.resume_mode": _fixed("auto", "disable", "resume_path"),  # CheckpointHandler
    "trainer.logger": lambda: (*listed_names("verl.utils.tracking", "supported_backend"), "tracking"),
    "trainer.device": _fixed("cuda", "npu", "cpu"),
    "*.tool_config.torch.contents": _fixed("cuda", "cpu", "memory", "shapes", "stack"),  # verl.utils.profiler.config
    "*.tool_config.npu.contents": _fixed("npu", "cpu", "memory", "shapes", "module", "stack"),
    "*.tool_config.npu.level": _fixed("level_none", "level0", "level1", "level2"),
    "data.truncation": _fixed("error", "left", "right", "middle"),  # verl.utils.torch_functional.postprocess_data
    "data.pad_mode": _fixed("no_padding"),  # all that the FSDP engine prepares
    # vLLM's and torch's own.
    "*.rollout.dtype": _fixed("auto", "half", "float16", "bfloat16", "float", "float32"),
    "*.rollout.load_format": _fixed("auto", "hf", "dummy", "safetensors", "pt", "npcache", "mistral", "bitsandbytes",
                                    "fastsafetensors", "runai_streamer", "runai_streamer_sharded", "sharded_state", "tensorizer"),
    "*.rollout.logprobs_mode": _fixed("raw_logits", "raw_logprobs", "processed_logits", "processed_logprobs"),
    "*.rollout.scheduling_policy": _fixed("fcfs", "priority"),
}  # fmt: skip

# Ranges in the notation of intervals: "(0, 1]" is above 0 and at most 1. Where VeRL asserts one, or it follows.
RANGES = {
    "*optim.lr": "(0, 1)",
    "*optim.weight_decay": "[0, 1)",
    "*optim.clip_grad": "(0, inf)",
    "*optim.lr_warmup_steps_ratio": "[0, 1]",
    "*optim.min_lr_ratio": "[0, 1]",
    "*optim.betas": "[0, 1)",
    "*.clip_ratio": "[0, inf)",
    "*.clip_ratio_low": "[0, inf)",
    "*.clip_ratio_high": "[0, inf)",
    "*.clip_ratio_c": "(1, inf)",  # core_algos asserts it
    "*.kl_loss_coef": "[0, inf)",
    "*.kl_ctrl.kl_coef": "[0, inf)",
    "*.kl_ctrl.horizon": "[1, inf)",
    "*.ppo_epochs": "[1, inf)",
    "*.cliprange_value": "(0, inf)",
    "algorithm.gamma": "[0, 1]",
    "algorithm.lam": "[0, 1]",
    "actor_rollout_ref.rollout.temperature": "(0, inf)",
    "*.val_kwargs.temperature": "[0, inf)",
    "*.val_kwargs.n": "[1, inf)",
    "actor_rollout_ref.rollout*.top_p": "(0, 1]",
    "actor_rollout_ref.rollout*.top_k": "[-1, inf)",
    "*.repetition_penalty": "(0, inf)",
    "*.gpu_memory_utilization": "(0, 1]",
    "*.max_num_seqs": "[1, inf)",
    "*.max_num_batched_tokens": "[1, inf)",
    "*.max_model_len": "[1, inf)",
    "*.max_token_len_per_gpu": "[1, inf)",
    "*.log_prob_max_token_len_per_gpu": "[1, inf)",
    "*.data_parallel_size": "[1, inf)",
    "*.pipeline_model_parallel_size": "[1, 1]",  # RolloutConfig.__post_init__ refuses more
    "*.update_weights_bucket_megabytes": "[1, inf)",
    "*.agent.num_workers": "[1, inf)",
    "*model.lora_rank": "[0, 512]",  # vLLM's MaxLoRARanks
    "*model.lora_alpha": "(0, inf)",
    "reward.num_workers": "[1, inf)",
    "data.dataloader_num_workers": "[0, inf)",
    "data.filter_overlong_prompts_workers": "[1, inf)",
    "data.train_max_samples": "[-1, inf)",
    "data.val_max_samples": "[-1, inf)",
    "data.val_batch_size": "[1, inf)",
    "data.gen_batch_size": "[1, inf)",
    "trainer.total_epochs": "[1, inf)",
    "trainer.total_training_steps": "[1, inf)",
    "trainer.save_freq": "[-1, inf)",
    "trainer.test_freq": "[-1, inf)",
    "trainer.max_*ckpt_to_keep": "[1, inf)",
    "trainer.critic_warmup": "[0, inf)",
    "*.tool_config.torch_memory.*": "[1, inf)",
    "*.tool_config.torch.schedule.*": "[0, inf)",
    "*.tool_config.*.profile_token_*": "[0, inf)",
    "transfer_queue.backend.SimpleStorage.*": "[1, inf)",
}

# What VeRL's profiler asserts when it is made, and no annotation tells: its yaml takes the values from one another.
NEVER_NULL = ("*.tool_config.torch_memory.*", "*.tool_config.torch.schedule.*", "*.tool_config.*.contents")


def allowed_names(path: str) -> tuple[str, ...] | None:
    """The names that a value may have, empty where VeRL's sources do not tell; None where it is not a name."""
    pattern = _matching_pattern(our_key(path), tuple(NAMES))
    return NAMES[pattern]() if pattern else None


def allowed_range(path: str) -> str | None:
    """The interval in which a number must lie; None where there is not a limit."""
    return RANGES.get(_matching_pattern(our_key(path), tuple(RANGES)))


def refuses_null(path: str) -> bool:
    """Whether VeRL refuses null for a key."""
    return bool(_matching_pattern(our_key(path), NEVER_NULL))


@cache
def _matching_pattern(path: str, patterns: tuple[str, ...]) -> str:
    """The first pattern that fits a key; "" where none does."""
    return next((pattern for pattern in patterns if fnmatchcase(path, pattern)), "")


def imported_packages(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Programs that VeRL imports because of a value: key, value, and the package."""
    packages = {"sglang": "sglang", "trtllm": "tensorrt_llm"}
    if settings.rollout and settings.rollout.engine in packages:
        yield settings.rollout.key("engine"), settings.rollout.engine, packages[settings.rollout.engine]
    for name in settings.logger_names:
        if name in ("wandb", "mlflow", "swanlab", "clearml", "trackio"):
            yield settings.key("loggers"), name, name
