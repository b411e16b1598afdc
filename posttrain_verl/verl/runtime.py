"""What other rooms ask of VeRL's own functions. VeRL is imported when one is called."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from omegaconf import DictConfig


def ray_environment(config: DictConfig) -> dict[str, Any]:
    """The runtime environment that VeRL gives its workers on every node: `env_vars` and more, as `ray.init` takes it.

    `config` is VeRL's whole config. Variables that this process has are left out: VeRL does not replace them.
    """
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    environment: dict[str, Any] = get_ppo_ray_runtime_env(config)
    return environment


@cache
def load_reward(path: str | None, name: str | None) -> Callable[..., Any]:
    """The reward function that a config names, as VeRL loads it: `name` in the module `path`. Without a path VeRL's own."""
    if not path:
        from verl.utils.reward_score import default_compute_score

        own: Callable[..., Any] = default_compute_score
        return own
    from verl.utils.import_utils import load_extern_object

    return load_extern_object(module_path=path, object_name=name)
