"""What a run needs of the machine around it: Ray, free ports, a key for wandb, shared memory."""

from __future__ import annotations

import importlib.metadata
import netrc
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from omegaconf import OmegaConf

from posttrain_verl.clusters.auth import is_on as auth_is_on
from posttrain_verl.clusters.auth import missing_token
from posttrain_verl.compose import Composed
from posttrain_verl.preflight import machine
from posttrain_verl.problem import Problem, warning

RAY_VERSIONS = ((2, 56), (3, 0))  # as in pyproject.toml
CONNECT_SECONDS = 1.0
SHARED_MEMORY = Path("/dev/shm")
MIB = 2**20
VLLM_QUEUES = 20  # MiB: two of ten chunks (cpu/vllm_plugin.py)
LITTLE = 1024 * MIB  # below, Ray keeps its objects on the disk
PORT_KEYS = ("ray_kwargs.ray_init.dashboard_port", "ray_kwargs.ray_init._metrics_export_port",
             "actor_rollout_ref.rollout.prometheus.port", "transfer_queue.metrics.port",
             "actor_rollout_ref.rollout.disaggregation.bootstrap_port",
             "actor_rollout_ref.rollout.engine_kwargs.vllm.data_parallel_rpc_port")  # fmt: skip
OFF = {"actor_rollout_ref.rollout.prometheus.port": "actor_rollout_ref.rollout.prometheus.enable",
       "transfer_queue.metrics.port": "transfer_queue.metrics.enabled"}  # fmt: skip
PORT_VARIABLES = ("MASTER_PORT", "VLLM_PORT")


def check_ray(composed: Composed) -> list[Problem]:
    """Problems of Ray: its version; and for a cluster that runs already, its token, and that it answers."""
    found, version = [], importlib.metadata.version("ray")
    low, high = RAY_VERSIONS
    if not low <= tuple(int(part) for part in version.split(".")[:2]) < high:
        wanted = f"{low[0]}.{low[1]} to before {high[0]}"
        found.append(
            Problem(f"Ray {version} is installed; the run needs {wanted}", "make setup installs the pinned one")
        )
    address = os.environ.get("RAY_ADDRESS") or OmegaConf.select(composed.verl, "ray_kwargs.ray_init.address")
    if not address or address == "local":
        return [*found, *_slurm(composed)]
    token = missing_token(str(address)) if auth_is_on() else []
    return found + token + list(_answers(str(address)))


def _slurm(composed: Composed) -> Iterator[Problem]:
    """Ray counts the CPUs of the machine where Slurm gave a part of them; the CPU backend sets a number of its own."""
    given, key = os.environ.get("SLURM_CPUS_ON_NODE", ""), "ray_kwargs.ray_init.num_cpus"
    counted = os.cpu_count() or 0
    if not given.isdecimal() or int(given) >= counted or composed.verl.trainer.device == "cpu":
        return
    if OmegaConf.select(composed.verl, key) is None:
        what = f"Slurm gave this job {given} CPUs, and Ray may count {counted}: it starts that many workers at once"
        yield warning(what, f"{key}={given}")


def _answers(address: str) -> Iterator[Problem]:
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if address != "auto" and not (host and port):
        yield Problem(f"the Ray address {address} is no host:port", "e.g. RAY_ADDRESS=10.0.0.1:6379")
    elif host and port and not _listens(host, port):
        yield Problem(
            f"nothing answers at the Ray address {address}", "start the cluster, or unset RAY_ADDRESS for a local one"
        )


def check_ports(composed: Composed) -> list[Problem]:
    """Ports that the user fixed and that are taken. All others are chosen free by Ray, VeRL and vLLM."""
    machine.require_here(composed)
    found = []
    for name, port in _fixed_ports(composed):
        if not 0 < port < 65536:
            found.append(Problem(f"{name}={port} is no port", "give a number from 1024 to 65535, or leave it out"))
        elif not _is_free(port):
            found.append(
                Problem(f"{name}={port} is in use", "choose another, or leave it out: a free one is taken then")
            )
    return found


def _fixed_ports(composed: Composed) -> Iterator[tuple[str, int]]:
    for key in PORT_KEYS:
        port = OmegaConf.select(composed.verl, key)
        if isinstance(port, int) and port and (key not in OFF or OmegaConf.select(composed.verl, OFF[key])):
            yield key, port
    for name in PORT_VARIABLES:
        if os.environ.get(name, "").isdecimal():
            yield name, int(os.environ[name])


def _is_free(port: int) -> bool:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def check_wandb(composed: Composed) -> list[Problem]:
    """A key for Weights & Biases, where it is among the loggers: without one it would ask on a terminal."""
    logger = composed.verl.trainer.logger
    if "wandb" not in ([logger] if isinstance(logger, str) else logger or []):
        return []
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun") or os.environ.get("WANDB_API_KEY"):
        return []
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or "api.wandb.ai"
    if _has_login(host):
        return []
    return [Problem(f"trainer.logger has wandb, and there is no key for {host}",
                    "set WANDB_API_KEY, or WANDB_MODE=offline, or trainer.logger=[console,file]")]  # fmt: skip


def _has_login(host: str) -> bool:
    file = Path(os.path.expanduser(os.environ.get("NETRC") or "~/.netrc"))
    try:
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def check_shared_memory(composed: Composed) -> list[Problem]:
    """Room in /dev/shm: weights travel through it on the CPU backend, and Ray keeps its objects there."""
    machine.require_here(composed)
    if not SHARED_MEMORY.is_dir():
        return []
    if not os.access(SHARED_MEMORY, os.W_OK):
        remedy = "mount it writable: Ray does not start without it (docker run --tmpfs /dev/shm:rw)"
        return [Problem(f"{SHARED_MEMORY} cannot be written", remedy)]
    free = shutil.disk_usage(SHARED_MEMORY).free
    needed = _bucket(composed)
    remedy = "enlarge it (docker run --shm-size=8g, or mount -o remount,size=8g /dev/shm)"
    if free < needed:
        what = f"{SHARED_MEMORY} has {free // MIB} MiB free, and an update of the weights needs {needed // MIB}"
        return [Problem(what, f"{remedy}, or lower update_weights_bucket_megabytes")]
    if free < LITTLE:
        return [
            warning(
                f"{SHARED_MEMORY} has {free // MIB} MiB free: Ray will keep its objects on the disk, slowly", remedy
            )
        ]
    return []


def _bucket(composed: Composed) -> int:
    """Bytes of shared memory for the weights on their way to vLLM, and for vLLM's own queue; none where CUDA passes them on."""
    if composed.stage == "sft" or composed.verl.trainer.device != "cpu":
        return 0
    bucket = int(composed.verl.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes)
    return (bucket + VLLM_QUEUES) * MIB
