"""What other libraries call the keys of VeRL: a user of TRL or transformers types `learning_rate` or `num_generations`."""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from posttrain_verl.verl.stage import Settings

# The last part of a key as others spell it: the name of a setting here, or a key of VeRL.
MEANT = {
    "batch_size": "train_batch_size",
    "beta": "kl_loss_coef",
    "clip_range": "actor_rollout_ref.actor.clip_ratio",
    "cliprange": "actor_rollout_ref.actor.clip_ratio",
    "epochs": "total_epochs",
    "epsilon": "actor_rollout_ref.actor.clip_ratio",
    "eval_steps": "validate_every",
    "generation_batch_size": "train_batch_size",
    "gpu_memory_utilization": "memory_share",
    "gpus": "gpus_per_node",
    "gradient_accumulation_steps": "micro_batch_size",
    "gradient_checkpointing": "gradient_checkpointing",
    "kl_coef": "kl_loss_coef",
    "learning_rate": "lr",
    "lora_alpha": "lora_alpha",
    "lora_r": "lora_rank",
    "lr": "lr",
    "max_completion_length": "max_response_length",
    "max_grad_norm": "actor_rollout_ref.actor.optim.clip_grad",
    "max_length": "max_length",
    "max_new_tokens": "max_response_length",
    "max_prompt_length": "max_prompt_length",
    "max_seq_length": "max_length",
    "max_steps": "total_steps",
    "max_tokens": "max_response_length",
    "mini_batch_size": "mini_batch_size",
    "n": "answers_per_prompt",
    "num_epochs": "total_epochs",
    "num_generations": "answers_per_prompt",
    "num_gpus": "gpus_per_node",
    "num_iterations": "actor_rollout_ref.actor.ppo_epochs",
    "num_nodes": "nodes_count",
    "num_train_epochs": "total_epochs",
    "per_device_train_batch_size": "micro_batch_size",
    "rollouts": "answers_per_prompt",
    "save_steps": "save_every",
    "save_total_limit": "kept_checkpoints",
    "steps": "total_steps",
    "temperature": "actor_rollout_ref.rollout.temperature",
    "top_p": "actor_rollout_ref.rollout.top_p",
    "vllm_gpu_memory_utilization": "memory_share",
    "vllm_tensor_parallel_size": "tensor_parallel",
    "warmup_ratio": "optim.lr_warmup_steps_ratio",
    "warmup_steps": "warmup_steps",
    "weight_decay": "weight_decay",
}


def key_meant(path: str, settings: Settings, known: Container[str]) -> str | None:
    """The key of VeRL that is meant by a key of another library; None where there is none in `known`, the keys of the launch.

    Below a node that has such a key itself, that one is meant: `critic.optim.learning_rate` is `critic.optim.lr`.
    """
    parent, _, leaf = path.rpartition(".")
    name = MEANT.get(leaf.lower())
    if name is None:
        return None
    views = [view for view in (settings, settings.model, settings.rollout) if view is not None]
    found = name if "." in name else next((view.key(name) for view in views if hasattr(type(view), name)), "")
    beside = f"{parent}.{found.rpartition('.')[2]}"
    return beside if beside in known else found if found in known else None


def nearest_key(path: str, settings: Settings, known: Sequence[str]) -> str | None:
    """The one of the `known` keys that is meant by an unknown one: what another library calls so, else the nearest."""
    return key_meant(path, settings, known) or nearest_path(path, known)


def nearest_path(path: str, candidates: Sequence[str]) -> str | None:
    """The key nearest to `path`: the same leaf at another place first, then the nearest spelling."""
    leaf = path.rpartition(".")[2]
    same_leaf = [candidate for candidate in candidates if candidate.rpartition(".")[2] == leaf]
    moved = difflib.get_close_matches(path, same_leaf, n=1, cutoff=0.5)
    near = moved or difflib.get_close_matches(path, candidates, n=1)
    return near[0] if near else None


def all_paths(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Every dotted key of a tree, nodes and values."""
    for key, value in tree.items():
        here = f"{path}.{key}" if path else str(key)
        yield here
        if isinstance(value, Mapping):
            yield from all_paths(value, here)
