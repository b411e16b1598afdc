"""The process that trains: `python -m posttrain_verl.run.driver RUN_DIR`.

It reads the run folder's config.yaml and hands it to VeRL's own trainers on Ray. `launch` starts it and reads its log;
everything that imports torch or VeRL happens here.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf

from posttrain_verl import cpu
from posttrain_verl.run import environment
from posttrain_verl.run.folder import RunFolder

JOIN_SECONDS = 300.0  # for the nodes of a cluster to join, and for the devices of a run before this one to come free


def start_ray(config: DictConfig, runtime_env: dict[str, Any]) -> None:
    """Connect to the cluster of `RAY_ADDRESS`, or start a local one with the devices the config asks for."""
    options: Any = OmegaConf.to_container(OmegaConf.select(config, "ray_kwargs.ray_init") or OmegaConf.create({}))
    extra = {key: value for key, value in (options.pop("runtime_env", None) or {}).items() if value is not None}
    runtime_env = {**runtime_env, **extra, "env_vars": {**runtime_env["env_vars"], **extra.get("env_vars", {})}}
    if not (os.environ.get("RAY_ADDRESS") or options.get("address")):
        options |= environment.local_cluster(config, options.get("num_cpus"))
    ray.init(**options, runtime_env=runtime_env, log_to_driver=True)


def wait_for_devices(config: DictConfig, seconds: float = JOIN_SECONDS, poll: float = 1.0) -> None:
    """Wait until the cluster has the devices free that the run asks for.

    VeRL looks once, and gives up on a cluster whose last node joins a second later.

    Raises:
        RuntimeError: they are not there after `seconds`.
    """
    wanted = config.trainer.nnodes * config.trainer.n_gpus_per_node
    until = time.monotonic() + seconds
    while (free := ray.available_resources().get("GPU", 0)) < wanted:
        if time.monotonic() > until:
            has = ray.cluster_resources().get("GPU", 0)
            raise RuntimeError(
                f"the cluster has {has:g} GPUs, {free:g} of them free, after {seconds:g} s; the run asks for "
                f"trainer.nnodes={config.trainer.nnodes} x trainer.n_gpus_per_node={config.trainer.n_gpus_per_node}"
            )
        time.sleep(poll)


def train_rl(config: DictConfig) -> None:
    """VeRL's `main_ppo`, on the Ray that is already up (its own `main` is a Hydra entry point)."""
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    auto_set_device(config)
    validate_config(config, need_reference_policy(config), need_critic(config))
    run_ppo(config, task_runner_class=TaskRunnerV1)


def train_sft(config: DictConfig) -> None:
    """VeRL's Ray SFT trainer; its own `run_sft` would start a second Ray."""
    from verl.trainer.sft_trainer_ray import SFTTrainer
    from verl.utils.device import auto_set_device

    auto_set_device(config)
    SFTTrainer(config).fit()


def main() -> None:
    folder = RunFolder(Path(sys.argv[1]))
    config = OmegaConf.load(folder.config)
    assert isinstance(config, DictConfig)
    if cpu.is_chosen():
        from posttrain_verl.cpu.verl_plugin import assert_active

        assert_active()
    start_ray(config, environment.runtime_env(config))
    try:
        wait_for_devices(config)
        {"rl": train_rl, "sft": train_sft}[folder.read_plan()["stage"]](config)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
