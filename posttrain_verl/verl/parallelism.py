"""How many GPUs share one sequence (Ulysses), from the keys that VeRL 0.9.1's engines read.

`actor_rollout_ref.actor.ulysses_sequence_parallel_size` is deprecated, and still wins where it is above 1
(FSDPActorConfig). `critic.ulysses_sequence_parallel_size` is read by nothing that trains.
"""

from __future__ import annotations

from omegaconf import DictConfig

ACTOR_KEY = "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size"
DEPRECATED_ACTOR_KEY = "actor_rollout_ref.actor.ulysses_sequence_parallel_size"
CRITIC_KEY = "critic.fsdp.ulysses_sequence_parallel_size"
DEPRECATED_CRITIC_KEY = "critic.ulysses_sequence_parallel_size"
SFT_KEY = "engine.ulysses_sequence_parallel_size"
LIVE_KEYS = {"rl": ACTOR_KEY, "sft": SFT_KEY}


def sequence_parallel_size(stage: str, config: DictConfig) -> int:
    """GPUs that share one sequence of the trained model."""
    if stage == "sft":
        return int(config.engine.ulysses_sequence_parallel_size)
    actor = config.actor_rollout_ref.actor
    deprecated = int(actor.ulysses_sequence_parallel_size)
    return deprecated if deprecated > 1 else int(actor.fsdp_config.ulysses_sequence_parallel_size)


def critic_sequence_parallel_size(config: DictConfig) -> int:
    """GPUs that share one sequence of the critic."""
    return int(config.critic.fsdp.ulysses_sequence_parallel_size)
