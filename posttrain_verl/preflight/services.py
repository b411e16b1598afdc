"""What a run needs around it: Ray and its token, free ports, a key for wandb, shared memory, and its own run folder.

Ray's token decides who may talk to a cluster. Without one a Ray listens on the loopback only.
"""

from __future__ import annotations

import importlib.metadata
import ipaddress
import netrc
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from posttrain_verl import paths
from posttrain_verl.preflight import machine
from posttrain_verl.terminal.problem import Problem, one_of, warning
from posttrain_verl.verl.composed import Composed

RAY_VERSIONS = ((2, 56), (3, 0))  # as in pyproject.toml
SHARED_MEMORY = Path("/dev/shm")
MIB = 2**20
VLLM_QUEUES = 20  # MiB: two of ten chunks (cpu/vllm_plugin.py)
LITTLE_SHARED_MEMORY = 1024 * MIB  # below, Ray keeps its objects on the disk


def check_ray(composed: Composed) -> list[Problem]:
    """Problems of Ray: its version, and for a cluster that already runs, its token and whether it answers."""
    found, version = [], importlib.metadata.version("ray")
    low, high = RAY_VERSIONS
    if not low <= tuple(int(part) for part in version.split(".")[:2]) < high:
        wanted = f"{low[0]}.{low[1]} to before {high[0]}"
        what = f"Ray {version} is installed; the run needs {wanted}"
        found.append(Problem(what, "make setup installs the pinned one"))
    settings = composed.settings
    address = str(os.environ.get("RAY_ADDRESS") or settings.ray_address or "local")
    if address != "local":
        return [*found, *(missing_token(address) if is_auth_on() else []), *_check_ray_answers(address)]
    # Ray counts all CPUs of the machine where Slurm gave a part of them. The CPU backend sets its own number.
    given, counted = os.environ.get("SLURM_CPUS_ON_NODE", ""), os.cpu_count() or 0
    if given.isdecimal() and int(given) < counted and settings.device != "cpu" and settings.ray_cpus is None:
        what = f"Slurm gave this job {given} CPUs, and Ray may count {counted}: it starts that many workers at once"
        found.append(warning(what, settings.override("ray_cpus", given)))
    return found


def _check_ray_answers(address: str) -> Iterator[Problem]:
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if address != "auto" and not (host and port):
        yield Problem(f"the Ray address {address} is not host:port", "e.g. RAY_ADDRESS=10.0.0.1:6379")
    elif host and port:
        try:
            socket.create_connection((host, port), timeout=1.0).close()
        except OSError:
            remedy = "start the cluster, or unset RAY_ADDRESS for a local one"
            yield Problem(f"nothing answers at the Ray address {address}", remedy)


def check_ports(composed: Composed) -> list[Problem]:
    """Ports that the user fixed and that are taken. Ray, VeRL and vLLM choose free ones for all others."""
    found = []
    machine.require_here(composed)
    fixed = [(key, port) for key, port in composed.settings.ports() if isinstance(port, int) and port]
    fixed += [(name, int(os.environ[name])) for name in ("MASTER_PORT", "VLLM_PORT")
              if os.environ.get(name, "").isdecimal()]  # fmt: skip
    for name, port in fixed:
        if not 0 < port < 65536:
            found.append(Problem(f"{name}={port} is not a port", "give a number from 1024 to 65535, or leave it out"))
            continue
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            remedy = "choose another, or leave it out: a free one is taken then"
            found.append(Problem(f"{name}={port} is in use", remedy))
    return found


def check_wandb(composed: Composed) -> list[Problem]:
    """A key for Weights & Biases, where it is among the loggers. Without one it would ask on a terminal."""
    settings = composed.settings
    if "wandb" not in settings.logger_names:
        return []
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun") or os.environ.get("WANDB_API_KEY"):
        return []
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or "api.wandb.ai"
    file = Path(os.path.expanduser(os.environ.get("NETRC") or "~/.netrc"))
    with suppress(OSError, netrc.NetrcParseError):
        if netrc.netrc(file).authenticators(host) is not None:
            return []
    remedy = f"set WANDB_API_KEY, or WANDB_MODE=offline, or {settings.override('loggers', '[console,file]')}"
    return [Problem(f"{settings.key('loggers')} has wandb, and there is no key for {host}", remedy)]


def check_shared_memory(composed: Composed) -> list[Problem]:
    """Room in /dev/shm: weights travel through it on the CPU backend, and Ray keeps its objects there."""
    machine.require_here(composed)
    if not SHARED_MEMORY.is_dir():
        return []
    if not os.access(SHARED_MEMORY, os.W_OK):
        remedy = "mount it writable: Ray does not start without it (docker run --tmpfs /dev/shm:rw)"
        return [Problem(f"{SHARED_MEMORY} cannot be written", remedy)]
    free, needed, rollout = shutil.disk_usage(SHARED_MEMORY).free, 0, composed.settings.rollout
    if rollout and composed.settings.device == "cpu":  # CUDA passes the weights on without it
        needed = (int(rollout.bucket_megabytes or 0) + VLLM_QUEUES) * MIB
    remedy = "enlarge it (docker run --shm-size=8g, or mount -o remount,size=8g /dev/shm)"
    if free < needed:
        what = f"{SHARED_MEMORY} has {free // MIB} MiB free, and an update of the weights needs {needed // MIB}"
        return [Problem(what, f"{remedy}, or lower update_weights_bucket_megabytes")]
    if free < LITTLE_SHARED_MEMORY:
        what = f"{SHARED_MEMORY} has {free // MIB} MiB free: Ray will keep its objects on the disk, slowly"
        return [warning(what, remedy)]
    return []


def check_run_folder(composed: Composed) -> list[Problem]:
    """A problem if the run's folder cannot be made, names a run that exists, or would get no metrics.jsonl."""
    found = []
    folder, settings, names = composed.run_dir(), composed.settings, composed.settings.logger_names
    place = next(one for one in folder.parents if os.path.exists(one))  # also where looking is not allowed
    if machine.is_here(composed) and not os.access(place, os.W_OK | os.X_OK):
        found.append(Problem(f"{place} cannot be written", "set posttrain.runs_dir to a folder of your own"))
    if composed.posttrain.run_id is not None and folder.exists():
        remedy = f"choose another posttrain.run_id, or resume that run: python -m posttrain_verl.launch run={folder}"
        found.append(Problem(f"{folder} exists already", remedy))
    if "file" not in names:  # VeRL's file logger writes metrics.jsonl; watch, status, resume and report read it
        given, better = (settings.override("loggers", f"[{','.join(listed)}]") for listed in (names, [*names, "file"]))
        found.append(Problem(f"{given} leaves out file: the watch would be blind, and no resume possible", better))
    return found


MAKE_TOKEN = (
    "make one with `ray get-auth-token --generate` on the head, and give this shell the same: RAY_AUTH_TOKEN_PATH=FILE"
)


def is_loopback(host: str) -> bool:
    """Whether only processes of the same machine reach `host` (a name or an address)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def has_token() -> bool:
    """Whether Ray will find a token. Ray 2.60 reads the variable, the named file, then the file in the home folder."""
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or token_file().is_file()


def token_file() -> Path:
    """The file of Ray's token, which need not be there."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token"))


def is_auth_on() -> bool:
    return os.environ.get("RAY_AUTH_MODE", "token") == "token"


def missing_token(host: str) -> list[Problem]:
    """Why a Ray at `host` may not be started or asked: others can reach it, and it has no token."""
    if is_auth_on():
        return [] if has_token() else [Problem(f"there is no token for the Ray at {host}", MAKE_TOKEN)]
    if is_loopback(host):
        return []
    what = f"RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']} lets everyone who reaches {host} run programs there"
    return [Problem(what, "unset it; " + MAKE_TOKEN)]


def unknown_cluster(composed: Composed) -> Problem:
    """The problem of a launch whose `posttrain.cluster.name` is not a kind of cluster, with the kinds that there are."""
    name, file = composed.posttrain.cluster.get("name"), composed.files.get("cluster")
    where = f" (of {file})" if file and not paths.is_shipped("cluster", file) else ""
    kinds = sorted(each.stem for each in paths.shipped_folder("cluster").glob("*.yaml"))
    what = f"posttrain.cluster.name={name}{where} is unknown" if name else f"posttrain.cluster.name{where} is not set"
    return Problem(what, f"it is the kind of the cluster; {one_of(str(name), kinds)}")


def check_cluster(composed: Composed) -> list[Problem]:
    """A kind of cluster that does not exist, and a Ray that others could reach without a token."""
    if not (paths.shipped_folder("cluster") / f"{composed.posttrain.cluster.get('name')}.yaml").is_file():
        return [unknown_cluster(composed)]
    return _check_token(composed)


def _check_token(composed: Composed) -> list[Problem]:
    """A Ray that this launch would start on an address other than the loopback must have a token."""
    options: Any = composed.settings.ray_options or {}
    host = options.get("_node_ip_address")
    if not host or options.get("address") or is_loopback(str(host)):
        return []
    return missing_token(str(host))
