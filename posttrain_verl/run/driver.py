"""The process that trains: `python -m posttrain_verl.run.driver RUN_DIR`.

It reads the run folder's config.yaml and hands it to VeRL's own trainers on Ray. `launch` starts it and reads its log;
everything that calls VeRL happens here. `verl/progress.py` finds some functions by their names
on the stack (`start_ray`, `wait_for_devices`).
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
from omegaconf import OmegaConf
from ray._private import services

from posttrain_verl import cpu, paths
from posttrain_verl.run import environment, ray_state, ray_token
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.verl import assert_plugin_loaded, progress
from posttrain_verl.verl.checkpoints import STAGE_VARIABLE
from posttrain_verl.verl.stage import Settings, logical_cpus
from posttrain_verl.watch.machine_rules import ENDING

ORPHAN_SECONDS = 10.0
LOST_NODE_SECONDS = 25.0  # Ray's health check takes 15 to 20 s to call a node dead
JOIN_SECONDS = 300.0  # for the nodes of a cluster to join, and for an earlier run to release its devices


def start_ray(settings: Settings, runtime_env: dict[str, Any]) -> None:
    """Connect to the cluster of `RAY_ADDRESS`, or start a local one with the devices that the settings ask for."""
    options: Any = OmegaConf.to_container(settings.ray_options or OmegaConf.create({}))
    extra = {key: value for key, value in (options.pop("runtime_env", None) or {}).items() if value is not None}
    runtime_env = {**runtime_env, **extra, "env_vars": {**runtime_env["env_vars"], **extra.get("env_vars", {})}}
    options |= {"runtime_env": runtime_env, "log_to_driver": True}
    if os.environ.get("RAY_ADDRESS") or options.get("address"):
        ray.init(**options)
    else:
        start_own_ray(options | environment.local_cluster(settings, options.get("num_cpus")))


def start_own_ray(options: dict[str, Any], tries: int = 3) -> None:
    """Start a Ray for this run alone, and start it again where its raylet died during the start.

    Ray 2.60's raylet ends itself where its agents take more than 15 s for their imports (ray-project/ray#65983). That happens
    on a busy machine, and where their files were never read. Nothing is lost yet, and the files are then in memory.
    """
    with suppress(OSError):  # of a home folder that cannot be written Ray says so
        ray_token.make_token()
    while True:
        try:
            with patient_start():
                ray.init(**options)
            return
        except Exception as error:  # it has no class of its own (ray._private.node)
            tries -= 1
            if not tries or own_raylets():
                raise
            print(f"Ray did not come up ({error}); starting it again, {tries} more times if need be", flush=True)
        left = psutil.Process().children(recursive=True)  # of the Ray that did not come up
        for one in left:
            with suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(left, timeout=10)


def own_raylets() -> list[psutil.Process]:
    """The running raylets that this process started."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it ended meanwhile
            if child.name() == "raylet" and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


@contextmanager
def patient_start(seconds: float = environment.RAY_START_SECONDS, poll: float = 0.5) -> Iterator[None]:
    """Within it a Ray starts after those of other launches, and may take `seconds` to come up.

    Ray 2.60 gives its node 30 s (`ray._private.node`). On a busy machine its agents, which are Python programs, need these for
    their imports. A raylet that dies in the meantime ends the waiting.
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

    with FileLock(paths.in_cache("running") / ".ray.lock"):  # the kernel releases it when its holder dies
        services.get_node = get_node
        try:
            yield
        finally:
            services.get_node = ask


def wait_for_devices(
    settings: Settings, cpus_per_device: int, seconds: float = JOIN_SECONDS, poll: float = 1.0
) -> None:
    """Wait until the devices that the run asks for are free in the cluster, and the CPUs beside them.

    VeRL looks for devices once, and gives up on a cluster whose last node joins a second later. It waits for ever for CPUs that
    Ray does not count.
    Raises RuntimeError where they are not free after `seconds`.
    """
    devices = settings.world_size
    wanted = {"GPU": devices, "CPU": devices * cpus_per_device}
    until = time.monotonic() + seconds
    while missing := [name for name, count in wanted.items() if ray.available_resources().get(name, 0) < count]:
        if time.monotonic() <= until:
            time.sleep(poll)
            continue
        name = missing[0]
        has, free = ray.cluster_resources().get(name, 0), ray.available_resources().get(name, 0)
        asked = f"{settings.override('nodes_count')} x {settings.override('gpus_per_node')}"
        needed = logical_cpus(settings.gpus_per_node)
        remedy = f"; start each node with --num-cpus={needed} ({settings.key('ray_cpus')}), which only counts processes"
        raise RuntimeError(
            f"the cluster has {has:g} {name}s, {free:g} of them free, after {seconds:g} s; the run asks for {asked}, "
            f"which is {wanted[name]} {name}s{remedy if name == 'CPU' else ''}"
        )


def end_with_supervisor() -> None:
    """End this process when its standard input ends: its supervisor is gone, and nobody else would ever end the run.

    `SIGTERM` lets Ray end its processes. A process that does not react is killed, and Ray's processes then end by themselves.
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
    stage, settings = folder.stage, folder.read_settings()
    if cpu.is_chosen():
        from posttrain_verl.cpu.verl_plugin import assert_active

        assert_active()
    assert_plugin_loaded()
    end_with_supervisor()
    os.environ[STAGE_VARIABLE] = stage.name  # which the workers get, too
    progress.follow_this_thread()
    start_ray(settings, environment.runtime_env(settings))
    progress.mark_activity("starting the trainer")
    ray_state.follow_ray(folder.cluster_file)
    try:
        wait_for_devices(settings, stage.cpus_per_device)
        stage.train(settings.tree)
    except ray.exceptions.RayError:
        patience = LOST_NODE_SECONDS if ray_state.mentions_lost_process(format_exc()) else 0.0
        ray_state.write_deaths(folder.cluster_file, patience)
        raise
    finally:
        progress.mark_last_activity(ENDING)
        ray.shutdown()


if __name__ == "__main__":
    main()
