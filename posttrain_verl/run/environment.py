"""The environment variables and Ray options of a run, for the CPU backend and for GPUs."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posttrain_verl import cpu
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.stages import STAGE_FILE
from posttrain_verl.verl.placement import logical_cpus
from reward_fns.code.cores import SHARERS

WARM_PYTHON = "POSTTRAIN_WARM_PYTHON"  # names the executable of `cpu.zygote.warm`

RAY_START_SECONDS = 300.0  # for the processes of a Ray of our own to come up; Ray's own 30 are few on a busy machine

# Ray starts no more logical GPUs than CUDA_VISIBLE_DEVICES names where it is set (ray 2.60), and gives each worker one of
# them: so many are named, and to CUDA each is no device.
LOGICAL_GPUS = 64

_CPU_BACKEND = {
    "VERL_PLATFORM": "cpu",
    "RAY_worker_niceness": "0",  # Ray's 15 leaves a training on the CPU what every other program does not want
    "VERL_ENGINE_DEVICE": "cuda",  # VeRL registers its FSDP engine for cuda and npu only; the same class runs on a CPU
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the default takes half of the memory
    "TORCH_COMPILE_DISABLE": "1",  # vLLM compiles its ranking of log-probabilities: ten seconds of the first rollout
}


def of_run(folder: RunFolder, backend: str, local_model: bool, attempt: int = 1) -> dict[str, str]:
    """The variables a run adds to the present environment: those of its processes, and where they write."""
    return {**of_processes(backend, local_model), "VERL_FILE_LOGGER_PATH": str(folder.metrics_of(attempt)),
            STAGE_FILE: str(folder.stage_file)}  # fmt: skip


def of_processes(backend: str, local_model: bool) -> dict[str, str]:
    """The variables of every process that imports VeRL or vLLM.

    `backend` is "cpu" or a GPU's name; with `local_model` no process may ask a hub.
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


def of_temporary(folder: Path) -> dict[str, str]:
    """The variables that keep a run's temporary files in `folder`.

    Its own Ray lives there, too: the one of another launch, or one that the user started, is then never found by mistake.
    """
    if os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_TMPDIR"):
        return {"TMPDIR": str(folder)}
    return {"TMPDIR": str(folder), "RAY_TMPDIR": str(folder)}


# Settings of the libraries that train and generate. Ray's workers on other nodes have the environment of their raylet, not
# of the shell of the launch, and VeRL takes back its own value of what that shell sets.
SETTINGS = ("CUDA_", "FLASHINFER_", "GLOO_", "HF_", "NCCL_", "PYTORCH_", "TORCH_", "UCX_", "VLLM_")
OF_ONE_PLACE = (
    "CUDA_VISIBLE_DEVICES",
    "VLLM_HOST_IP",
)  # Ray gives each worker its devices, and each node has its address
FORWARDED = ("PYTHONUNBUFFERED", "VERL_", "TRANSFORMERS_OFFLINE", "TQ_", "TOKENIZERS_", "TQDM_", "POSTTRAIN_", "WANDB_",
             "OMP_NUM_THREADS", *SETTINGS)  # fmt: skip


def runtime_env(config: DictConfig) -> dict[str, Any]:
    """Ray's runtime environment: VeRL's own defaults and the variables of the run, for workers on every node."""
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    base = get_ppo_ray_runtime_env(config)
    base["env_vars"] = {**base["env_vars"], **forwarded(), **_reward_workers(config), "TRANSFER_QUEUE_ENABLE": "1"}
    if os.environ.get(WARM_PYTHON):
        base["py_executable"] = os.environ[WARM_PYTHON]
    return base


def forwarded() -> dict[str, str]:
    """The variables of this process that every worker of the run gets, on every node."""
    return {key: value for key, value in os.environ.items() if key.startswith(FORWARDED) and key not in OF_ONE_PLACE}


def _reward_workers(config: DictConfig) -> dict[str, str]:
    """How many reward workers share the cores of a node: VeRL places them on the nodes in turn (verl 0.9.1, reward_loop)."""
    workers = OmegaConf.select(config, "reward.num_workers")
    return {SHARERS: str(math.ceil(workers / config.trainer.nnodes))} if workers else {}


def local_cluster(config: DictConfig, num_cpus: int | None) -> dict[str, Any]:
    """Options of `ray.init` for a cluster of this machine alone.

    On the CPU backend each worker gets a logical GPU, so that VeRL's resource pools work unchanged. CPUs are a count of
    processes, and there are as many as VeRL asks for: a machine with few cores beside a GPU would wait for ever.
    """
    devices = config.trainer.n_gpus_per_node * config.trainer.nnodes
    counted = max(os.cpu_count() or 1, logical_cpus(devices))
    options = {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "num_cpus": num_cpus or counted}
    return options | {"num_gpus": devices} if cpu.is_chosen() else options


def forks(variables: dict[str, str]) -> bool:
    """Whether the processes of a run may be forks of one on this machine: the CPU backend, and no other node."""
    return variables.get("VERL_PLATFORM") == "cpu" and not os.environ.get("RAY_ADDRESS")


def warm_folder(variables: dict[str, str]) -> Path | None:
    """Where the warm Python of the run records its forks; None where each process of the run is a Python of its own."""
    python = variables.get(WARM_PYTHON) or os.environ.get(WARM_PYTHON)
    return Path(python).parent if python else None


def python() -> str:
    """The interpreter for the processes of a run: the warm one of `cpu.zygote` where it was started, else this one."""
    return os.environ.get(WARM_PYTHON) or sys.executable
