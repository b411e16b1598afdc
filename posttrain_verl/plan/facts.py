"""What this machine has. Several sources speak of its devices; what torch can use decides, and a disagreement is named.

Nothing here needs a driver: without one the answer is a machine without devices. The sources are functions and modules
that a caller may replace, so that a test can stand for a machine.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from posttrain_verl.plan import nvidia
from posttrain_verl.plan.nvidia import GIB, Device, Driver

RAY_COUNT = "import ray; ray.init(log_to_driver=False); print(int(ray.cluster_resources().get('GPU', 0)))"
# Ray names the kind of a real GPU; the logical ones of the CPU backend have none.
RAY_KINDS = """
import json, ray
ray.init(log_to_driver=False)
kinds = [name.partition(":")[2] for name in ray.cluster_resources() if name.startswith("accelerator_type:")]
print(json.dumps(sorted(kinds)))
"""
# torch.cuda.device_count() answers from NVML, so it counts devices that a driver too old for this torch cannot give it;
# is_available() asks CUDA itself, and warns with CUDA's reason.
TORCH_DEVICES = """
import json, warnings
import torch
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    found = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    every = [torch.cuda.get_device_properties(number) for number in found]
devices = [(one.name, one.total_memory, (one.major, one.minor)) for one in every]
print(json.dumps({"devices": devices, "said": str(said[-1].message) if said else ""}))
"""
PATIENCE = 300  # seconds for an import of torch or Ray from a slow file system


@dataclass(frozen=True)
class TorchBuild:
    """The installed torch: its version, and the release of CUDA that it was built for; None for a CPU build."""

    version: str = ""
    cuda: str | None = None


@dataclass(frozen=True)
class TorchDevices:
    """The devices that torch can use, and what it said where it can use none; None where it did not answer in time."""

    devices: tuple[Device, ...] | None = ()
    said: str = ""


@dataclass(frozen=True)
class Facts:
    """A machine.

    `devices` are those that the driver lists, `torch` counts those that torch can use, and `usable` describes them.
    `ray` is None where no cluster was asked.
    """

    devices: tuple[Device, ...] = ()
    torch: int = 0
    usable: tuple[Device, ...] = ()
    torch_said: str = ""
    build: TorchBuild = field(default_factory=TorchBuild)
    driver: Driver = field(default_factory=Driver)
    visible: str | None = None
    ray: int | None = None
    host_memory_gb: float = 0.0
    shm_gb: float = 0.0
    disk_gb: float = 0.0

    def disagreements(self, configured: int | None = None) -> list[str]:
        """What the sources say that torch does not, with the numbers."""
        seen = f"this process sees {self.torch}"
        found = []
        if self.devices and len(self.devices) != self.torch:
            hidden = f" (CUDA_VISIBLE_DEVICES={self.visible})" if self.visible is not None else ""
            found.append(f"nvidia-smi lists {len(self.devices)}, {seen}{hidden}")
        if self.ray is not None and self.ray != self.torch:
            found.append(f"Ray has {self.ray} GPUs, {seen}")
        if configured is not None and configured != self.torch:
            found.append(f"trainer.n_gpus_per_node={configured}, {seen}")
        if len(names := {device.name for device in self.described}) > 1:
            found.append("the devices differ: " + ", ".join(sorted(names)))
        return found

    @property
    def described(self) -> tuple[Device, ...]:
        """The devices of a run: as torch describes those that it can use, else as the driver describes all."""
        return self.usable or self.devices

    @property
    def memory_gb(self) -> float:
        """Memory of the smallest device, since every rank holds as much as any other."""
        return min((device.memory_gb for device in self.described), default=0.0)

    @property
    def interconnect(self) -> str | None:
        """How the devices of the node reach each other; None with fewer than two, or where the driver lists none."""
        if len(self.devices) < 2:
            return None
        return "NVLink" if all(device.nvlink for device in self.devices) else "PCIe"

    @property
    def hidden(self) -> bool:
        """Whether the user hides every device from this process, which is a choice of the CPU (CUDA C++ Programming Guide)."""
        return self.visible is not None and self.visible.split(",")[0].strip() in ("", "-1")


def look(
    nvml: Any = None,
    torch_devices: Callable[[], TorchDevices] | None = None,
    ray_count: Callable[[], int | None] | None = None,
    build: TorchBuild | None = None,
    environ: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
) -> Facts:
    """The facts of this machine. torch and Ray are asked in processes of their own, and only where there is a GPU to ask for."""
    driver, build = nvidia.look(nvml, root), build or torch_build()
    seen = Facts(devices=driver.devices, driver=driver, build=build, visible=environ.get("CUDA_VISIBLE_DEVICES"),
                 host_memory_gb=_host_memory_gb(), shm_gb=_free_gb(Path("/dev/shm")), disk_gb=_free_gb(Path.cwd()))  # fmt: skip
    if not driver.most or not build.cuda or seen.hidden:
        return seen
    in_ray = (ray_count or _count_in_ray)() if environ.get("RAY_ADDRESS") else None
    answer = (torch_devices or (lambda: ask_torch(seen.visible)))()
    usable = driver.devices if answer.devices is None else answer.devices
    return replace(seen, torch=len(usable), usable=usable, torch_said=answer.said, ray=in_ray)


def torch_build() -> TorchBuild:
    """Read from torch's own version.py: importing torch would take seconds."""
    spec = find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    if file is None or not file.is_file():
        return TorchBuild()
    found = runpy.run_path(str(file))
    return TorchBuild(found["__version__"], found.get("cuda"))


@cache
def ask_torch(visible: str | None) -> TorchDevices:
    """The devices that torch can use with this CUDA_VISIBLE_DEVICES, asked once in this process."""
    environ = {**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "0"}  # 1 lets is_available() count by NVML, too
    try:
        answer = _answer(TORCH_DEVICES, environ)
    except subprocess.TimeoutExpired:
        return TorchDevices(None, f"torch did not answer within {PATIENCE} s")
    lines = (answer.stdout if answer.returncode == 0 else answer.stderr).strip().splitlines()
    if answer.returncode:
        return TorchDevices((), lines[-1] if lines else f"torch ended with exit code {answer.returncode}")
    told = json.loads(lines[-1])
    devices = tuple(Device(name, memory / GIB, tuple(capability)) for name, memory, capability in told["devices"])
    return TorchDevices(devices, told["said"])


def _count_in_ray() -> int | None:
    try:
        answer = _answer(RAY_COUNT, _outside_of_a_job())
    except subprocess.TimeoutExpired:
        return None
    return int(answer.stdout.split()[-1]) if answer.returncode == 0 and answer.stdout.split() else None


@cache
def kinds_in_ray() -> tuple[str, ...]:
    """The kinds of GPU in the cluster of RAY_ADDRESS, e.g. ("H100",); none where it has none, or does not answer."""
    try:
        answer = _answer(RAY_KINDS, _outside_of_a_job())
    except subprocess.TimeoutExpired:
        return ()
    return tuple(json.loads(answer.stdout.splitlines()[-1])) if answer.returncode == 0 and answer.stdout else ()


def _outside_of_a_job() -> dict[str, str]:
    """Without the job that this process may be of: its runtime environment would be set up again on every node, which takes
    the current folder from the job where two nodes share a disk."""
    return {name: value for name, value in os.environ.items() if name != "RAY_JOB_CONFIG_JSON_ENV_VAR"}


def _answer(code: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Of a process of its own: importing torch or Ray here would cost seconds, and could hold the devices."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, env=environ)


def _host_memory_gb() -> float:
    """Memory that this process may use: that of the machine, or of its control group if that is less (cgroup v2)."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text) / GIB) if text.isdigit() else total


def _free_gb(place: Path) -> float:
    return shutil.disk_usage(place).free / GIB if place.exists() else 0.0
