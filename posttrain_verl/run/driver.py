"""The process that trains: `python -m posttrain_verl.run.driver RUN_DIR`.

It reads the run folder's config.yaml and hands it to VeRL's own trainers on Ray. `launch` starts it and reads its log;
everything that imports torch or VeRL happens here.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import format_exc
from typing import Any

import psutil
import ray
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf
from ray._private import services

from posttrain_verl import cpu, paths
from posttrain_verl.run import environment, roster, stages
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.verl import assert_plugin_loaded, retention
from posttrain_verl.verl.placement import logical_cpus, placement_cpus
from posttrain_verl.watch.machine import ENDING

ORPHAN_SECONDS = 10.0
LOST_NODE_SECONDS = 25.0  # Ray's health check takes 15 to 20 s to call a node dead
JOIN_SECONDS = 300.0  # for the nodes of a cluster to join, and for the devices of a run before this one to come free


def start_ray(config: DictConfig, runtime_env: dict[str, Any]) -> None:
    """Connect to the cluster of `RAY_ADDRESS`, or start a local one with the devices the config asks for."""
    options: Any = OmegaConf.to_container(OmegaConf.select(config, "ray_kwargs.ray_init") or OmegaConf.create({}))
    extra = {key: value for key, value in (options.pop("runtime_env", None) or {}).items() if value is not None}
    runtime_env = {**runtime_env, **extra, "env_vars": {**runtime_env["env_vars"], **extra.get("env_vars", {})}}
    options |= {"runtime_env": runtime_env, "log_to_driver": True}
    if os.environ.get("RAY_ADDRESS") or options.get("address"):
        ray.init(**options)
    else:
        start_own_ray(options | environment.local_cluster(config, options.get("num_cpus")))


def start_own_ray(options: dict[str, Any], tries: int = 3) -> None:
    """Start a Ray of this run alone, again where its raylet did not outlive the start.

    Ray 2.60's raylet ends itself where its agents take more than 15 s for their imports (ray-project/ray#65983), which they
    do on a busy machine, or one that has never read their files. Nothing is lost yet, and the files are then in memory.
    """
    while True:
        try:
            with patient_start():
                ray.init(**options)
            return
        except Exception as error:  # of no class of its own (ray._private.node)
            tries -= 1
            if not tries or own_raylets():
                raise
            print(f"Ray did not come up ({error}); starting it again, {tries} more times if need be", flush=True)
            end_children()


def own_raylets() -> list[psutil.Process]:
    """The raylets that this process started and that run."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # gone meanwhile
            found += [child] if child.name() == "raylet" and child.status() != psutil.STATUS_ZOMBIE else []
    return found


def end_children() -> None:
    """End what a Ray that did not come up has left, and wait until it is gone."""
    left = psutil.Process().children(recursive=True)
    for one in left:
        with suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(left, timeout=10)


@contextmanager
def patient_start(seconds: float = environment.RAY_START_SECONDS, poll: float = 0.5) -> Iterator[None]:
    """Within it a Ray is started after those of other launches, and may take `seconds` to come up.

    Ray 2.60 gives its node 30 s (`ray._private.node`), which its agents, Python programs themselves, need for their imports
    on a busy machine. A raylet that dies in the meantime ends the waiting.
    """
    ask = services.get_node

    def get_node(address: str, node: str) -> Any:
        until = time.monotonic() + seconds
        while True:
            try:
                return ask(address, node)
            except RuntimeError:  # not registered yet
                if time.monotonic() > until or not own_raylets():
                    raise
                time.sleep(poll)

    home = paths.in_cache("running")
    with FileLock(home / ".ray.lock"):  # the kernel lets go of it when its holder dies
        services.get_node = get_node
        try:
            yield
        finally:
            services.get_node = ask


def wait_for_devices(config: DictConfig, stage: str, seconds: float = JOIN_SECONDS, poll: float = 1.0) -> None:
    """Wait until the cluster has the devices free that the run asks for, and the CPUs beside them.

    VeRL looks once for devices, and gives up on a cluster whose last node joins a second later. For CPUs that Ray does
    not count it waits for ever.

    Raises:
        RuntimeError: they are not there after `seconds`.
    """
    devices = config.trainer.nnodes * config.trainer.n_gpus_per_node
    wanted = {"GPU": devices, "CPU": placement_cpus(stage, devices)}
    until = time.monotonic() + seconds
    while missing := [name for name, count in wanted.items() if ray.available_resources().get(name, 0) < count]:
        if time.monotonic() > until:
            raise RuntimeError(_too_few(config, missing[0], wanted, seconds))
        time.sleep(poll)


def _too_few(config: DictConfig, name: str, wanted: dict[str, int], seconds: float) -> str:
    has, free = ray.cluster_resources().get(name, 0), ray.available_resources().get(name, 0)
    asked = f"trainer.nnodes={config.trainer.nnodes} x trainer.n_gpus_per_node={config.trainer.n_gpus_per_node}"
    needed = logical_cpus(config.trainer.n_gpus_per_node)
    remedy = f"; start each node with --num-cpus={needed} (ray_kwargs.ray_init.num_cpus), which only counts processes"
    return (f"the cluster has {has:g} {name}s, {free:g} of them free, after {seconds:g} s; the run asks for {asked}, which is "
            f"{wanted[name]} {name}s{remedy if name == 'CPU' else ''}")  # fmt: skip


def train_rl(config: DictConfig) -> None:
    """VeRL's `main_ppo`, on the Ray that is already up (its own `main` is a Hydra entry point)."""
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    auto_set_device(config)
    validate_config(config, need_reference_policy(config), need_critic(config))
    run_ppo(config, task_runner_class=task_runner())


def task_runner() -> Any:
    """VeRL's actor that holds the RL trainer, which also says what it does at the moment."""
    from verl.trainer.main_ppo import TaskRunnerV1

    class TaskRunner(TaskRunnerV1.__ray_metadata__.modified_class):
        def run(self, config: DictConfig) -> None:
            stages.follow_this_thread()
            super().run(config)

    return ray.remote(TaskRunner)


def train_sft(config: DictConfig) -> None:
    """VeRL's Ray SFT trainer; its own `run_sft` would start a second Ray."""
    from verl.trainer.sft_trainer_ray import SFTTrainer
    from verl.utils.device import auto_set_device

    auto_set_device(config)
    trainer = SFTTrainer(config)
    start_epoch_afresh(trainer)
    retention.prune_after_saves(trainer.ckpt_handler, config)
    trainer.fit()


def start_epoch_afresh(trainer: Any) -> None:
    """Let an SFT that resumes where an epoch ended train the next one.

    VeRL 0.9.1 restores the data loader as it was, at the end of its data: the epoch would have no batch, and the run would
    end, or go on an epoch later, having trained nothing (verl-project/verl#7401).
    """
    step = trainer.resume_global_step
    if step and step % trainer.steps_per_epoch == 0:
        trainer._build_dataloader()
        trainer.ckpt_handler.train_dataloader = trainer.train_dataloader


def end_with_supervisor() -> None:
    """End this process when its standard input does: whoever started it is gone, and nobody would ever end the run.

    `SIGTERM` lets Ray end its processes; what waits for ever is ended without them, and they follow their Ray.
    """

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="supervisor", daemon=True).start()


def main() -> None:
    folder = RunFolder(Path(sys.argv[1]))
    config = OmegaConf.load(folder.config)
    assert isinstance(config, DictConfig)
    if cpu.is_chosen():
        from posttrain_verl.cpu.verl_plugin import assert_active

        assert_active()
    assert_plugin_loaded()
    end_with_supervisor()
    stages.follow_this_thread()
    start_ray(config, environment.runtime_env(config))
    stages.mark("starting the trainer")
    roster.follow(folder.cluster_file)
    try:
        stage = folder.read_plan()["stage"]
        wait_for_devices(config, stage)
        {"rl": train_rl, "sft": train_sft}[stage](config)
    except ray.exceptions.RayError:
        roster.write_deaths(folder.cluster_file, LOST_NODE_SECONDS if roster.speaks_of_a_loss(format_exc()) else 0.0)
        raise
    finally:
        stages.mark_last(ENDING)
        ray.shutdown()


if __name__ == "__main__":
    main()
