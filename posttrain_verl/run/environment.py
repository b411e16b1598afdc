"""The environment variables and Ray options of a run, for the CPU backend and for GPUs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from posttrain_verl import cpu
from posttrain_verl.cpu import warm
from posttrain_verl.verl.runtime import ray_environment
from posttrain_verl.verl.stage import Settings, logical_cpus
from reward_fns.code.cores import SHARERS

RAY_START_SECONDS = (
    300.0  # for the processes of our own Ray to come up; Ray's default of 30 is too short on a busy machine
)

# Where CUDA_VISIBLE_DEVICES is set, Ray 2.60 starts at most as many logical GPUs as it names, and gives each worker one of
# them. So many names are given, and none of them is a device to CUDA.
LOGICAL_GPUS = 64

_CPU_BACKEND = {
    "VERL_PLATFORM": "cpu",
    "RAY_worker_niceness": "0",  # with Ray's 15 a training on the CPU gets only the time that no other program wants
    "VERL_ENGINE_DEVICE": "cuda",  # VeRL registers its FSDP engine for cuda and npu only; the same class runs on a CPU
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the default takes half of the memory
    "TORCH_COMPILE_DISABLE": "1",  # vLLM compiles its ranking of log-probabilities: ten seconds of the first rollout
}


def process_variables(backend: str, local_model: bool) -> dict[str, str]:
    """The variables of every process that imports VeRL or vLLM.

    `backend` is "cpu" or a GPU's name. With `local_model` no process may ask a hub.
    """
    variables = {
        "PYTHONUNBUFFERED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "token"),  # Ray's default since 2.60, without its warning
        "RAY_DEDUP_LOGS": "0",
        "RAY_agent_register_timeout_ms": f"{RAY_START_SECONDS * 1000:.0f}",
        "RAY_gcs_server_port_wait_time_s": f"{RAY_START_SECONDS:.0f}",
        "TQ_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_MININTERVAL": "5",
    }
    if local_model:
        variables |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    if backend == "cpu":
        variables |= {key: os.environ.get(key, value) for key, value in _CPU_BACKEND.items()}
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(["-1"] * LOGICAL_GPUS)
    return variables


# Ray 2.60 takes 127.0.0.1 for the address by which others reach this machine, and listens there. With this variable it does
# what it does on macOS: everything listens on the loopback.
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def loopback_variables(settings: Settings) -> dict[str, str]:
    """The variables that keep a run's own Ray, and VeRL's servers on it, on the loopback; none for a cluster of the user's."""
    options: Any = settings.ray_options or {}
    named = os.environ.get("RAY_ADDRESS") or options.get("address") or options.get("_node_ip_address")
    return {} if named or settings.nodes_count != 1 else LOOPBACK_ONLY


def temporary_variables(folder: Path) -> dict[str, str]:
    """The variables that keep a run's temporary files in `folder`.

    Its own Ray uses it, too. The Ray of another launch, or one that the user started, is then never found by mistake.
    """
    names_ray = os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_TMPDIR")
    return {"TMPDIR": str(folder)} | ({} if names_ray else {"RAY_TMPDIR": str(folder)})


# Settings of the libraries that train and generate. Ray's workers on other nodes have the environment of their raylet, not
# of the shell of the launch, and VeRL would set its own value of what that shell sets.
LIBRARY_PREFIXES = ("CUDA_", "FLASHINFER_", "GLOO_", "HF_", "NCCL_", "PYTORCH_", "TORCH_", "UCX_", "VLLM_")
# Ray gives each worker its devices, and each node has its address.
MACHINE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "VLLM_HOST_IP")
FORWARDED_PREFIXES = ("PYTHONUNBUFFERED", "VERL_", "TRANSFORMERS_OFFLINE", "TQ_", "TOKENIZERS_", "TQDM_", "POSTTRAIN_", "WANDB_",
             "OMP_NUM_THREADS", *LIBRARY_PREFIXES)  # fmt: skip


def runtime_env(settings: Settings) -> dict[str, Any]:
    """Ray's runtime environment for workers on every node: VeRL's defaults, and the variables of the run."""
    base = ray_environment(settings.tree)
    own = forwarded_variables() | _share_cores(settings) | {"TRANSFER_QUEUE_ENABLE": "1"}
    base["env_vars"] = base["env_vars"] | own
    if executable := warm.executable():
        base["py_executable"] = executable
    return base


def forwarded_variables() -> dict[str, str]:
    """The variables of this process that every worker of the run gets, on every node."""
    return {
        key: value
        for key, value in os.environ.items()
        if key.startswith(FORWARDED_PREFIXES) and key not in MACHINE_VARIABLES
    }


def _share_cores(settings: Settings) -> dict[str, str]:
    """How many reward workers share the cores of a node."""
    return {SHARERS: str(settings.graders_per_node)} if settings.graders_per_node else {}


def local_cluster(settings: Settings, num_cpus: int | None) -> dict[str, Any]:
    """Options of `ray.init` for a cluster of this machine alone.

    On the CPU backend each worker gets a logical GPU, so that VeRL's resource pools work unchanged. Ray's CPUs only count
    processes. There are as many as VeRL asks for, because a machine with few cores beside its GPU would wait for ever.
    """
    devices = settings.world_size
    counted = max(os.cpu_count() or 1, logical_cpus(devices))
    options = {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "num_cpus": num_cpus or counted}
    return options | {"num_gpus": devices} if cpu.is_chosen() else options
