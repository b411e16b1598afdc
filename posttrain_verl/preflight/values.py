"""Values that VeRL, vLLM or torch would refuse: names that nobody registered, and numbers out of range."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from posttrain_verl.compose import Composed
from posttrain_verl.preflight import tree
from posttrain_verl.problem import Problem, one_of
from posttrain_verl.verl_names import compared, listed, registered

Names = Callable[[], tuple[str, ...]]


def check(composed: Composed) -> list[Problem]:
    """Every value that is none of the names, or outside the range, that its key allows."""
    theirs = dict(tree.leaves(tree.known(composed)))
    changed = [(p, v) for p, v in tree.leaves(composed.resolved) if v != theirs.get(p)]
    found = [Problem(f"{path}=null is refused by VeRL, profiling or not", f"leave {path} out")
             for path, value in changed if value is None and _matching(path, NEVER_NULL)]  # fmt: skip
    for path, value in changed:
        if value is not None:
            found += [*_names(path, value), *_range(path, value)]
    return found + list(_compared(composed)) + list(_packages(composed))


def _fixed(*names: str) -> Names:
    return lambda: names


def _torch_dtypes() -> tuple[str, ...]:
    lists = ("HALF_LIST", "FLOAT_LIST", "BFLOAT_LIST")
    return tuple(name for each in lists for name in listed("verl.utils.torch_dtypes", each))


def _reward_managers() -> tuple[str, ...]:
    place = "verl.experimental.reward_loop.reward_manager"
    return registered(place, "register") + registered(place, "register_manager")


def _engine_strategies() -> tuple[str, ...]:
    return compared("verl.workers.config.FSDPEngineConfig").get("strategy", ())


KL = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")  # core_algos.kl_penalty_forward

# Which names a key takes, by pattern of the key. Of a list each item is one. First what VeRL looks up, by where it does.
NAMES: dict[str, Names] = {
    "algorithm.adv_estimator": lambda: registered("verl.trainer.ppo.core_algos", "register_adv_est"),
    "actor_rollout_ref.actor.policy_loss.loss_mode":
        lambda: registered("verl.trainer.ppo.core_algos", "register_policy_loss"),
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
    "*.rollout.name": lambda: listed("verl.workers.rollout.base", "_ROLLOUT_REGISTRY"),
    "*.rollout.mode": _fixed("async"),  # RolloutConfig.__post_init__
    "*.rollout.quantization": _fixed("fp8", "torchao", "ascend"),  # vllm_async_server
    "*.rollout.checkpoint_engine.backend":
        lambda: registered("verl.checkpoint_engine", "CheckpointEngineRegistry.register"),
    "*.rollout.agent.default_agent_loop": lambda: registered("verl.experimental.agent_loop", "register"),
    "*.rollout.multi_turn.format": lambda: registered("verl.experimental.agent_loop.tool_parser", "ToolParser.register"),
    "*.rollout.multi_turn.tool_response_truncate_side": _fixed("left", "middle", "right"),
    "reward.reward_manager.source": _fixed("register", "importlib"),
    "reward.reward_manager.name": _reward_managers,
    "trainer.v1.trainer_mode": lambda: registered("verl.trainer.ppo.v1", "register_trainer"),
    "trainer.v1.sampler.max_off_policy_strategy": _fixed("drop", "wait"),  # ReplayBuffer
    "trainer.resume_mode": _fixed("auto", "disable", "resume_path"),  # CheckpointHandler
    "trainer.logger": lambda: (*listed("verl.utils.tracking", "supported_backend"), "tracking"),
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


def _names(path: str, value: Any) -> Iterator[Problem]:
    pattern = _matching(path, tuple(NAMES))
    if not pattern or (path == "reward.reward_manager.name" and not isinstance(value, str)):
        return
    known = NAMES[pattern]()
    for word in value if isinstance(value, list) else [value]:
        if known and str(word) not in known:
            yield _unknown(path, word, known)


def _unknown(path: str, word: Any, known: tuple[Any, ...]) -> Problem:
    names = [str(name) for name in known]
    return Problem(f"{path}={word} is none that VeRL accepts", one_of(str(word), names))


def _compared(composed: Composed) -> Iterator[Problem]:
    """Fields that a dataclass compares with a list when VeRL makes it."""
    yield from _compared_below(composed.resolved, tree.known(composed), "")


def _compared_below(ours: dict[str, Any], theirs: dict[str, Any], path: str) -> Iterator[Problem]:
    for field, known in compared(str(theirs.get("_target_", ""))).items():
        value, here = ours.get(field), f"{path}.{field}" if path else field
        if value is not None and value not in known and not _matching(here, tuple(NAMES)):
            yield _unknown(here, value, known)
    for key, node in theirs.items():
        if isinstance(node, dict) and isinstance(ours.get(key), dict):
            yield from _compared_below(ours[key], node, f"{path}.{key}" if path else str(key))


def _range(path: str, value: Any) -> Iterator[Problem]:
    pattern = _matching(path, tuple(RANGES))
    if not pattern:
        return
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int | float) and not _inside(number, RANGES[pattern]):
            yield Problem(f"{path}={number} is out of range", f"give a value in {RANGES[pattern]}")


def _inside(number: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    return above and below and math.isfinite(number)


def _packages(composed: Composed) -> Iterator[Problem]:
    """Programs that VeRL imports because of a value, and that are not installed."""
    rollout = composed.verl.get("actor_rollout_ref", {}).get("rollout", {}).get("name")
    wanted = {"actor_rollout_ref.rollout.name": [rollout] if rollout in ("sglang", "trtllm") else []}
    logger = composed.verl.trainer.logger
    trackers = [logger] if isinstance(logger, str) else list(logger or [])
    wanted["trainer.logger"] = [
        name for name in trackers if name in ("wandb", "mlflow", "swanlab", "clearml", "trackio")
    ]
    for key, names in wanted.items():
        for name in names:
            package = {"trtllm": "tensorrt_llm"}.get(name, name)
            if importlib.util.find_spec(package) is None:
                yield Problem(f"{key} names {name}, and the package {package} is not installed here",
                              f"pip install {package}, or take it out of {key}")  # fmt: skip


@cache
def _matching(path: str, patterns: tuple[str, ...]) -> str:
    return next((pattern for pattern in patterns if fnmatchcase(path, pattern)), "")
