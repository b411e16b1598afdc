"""What this machine has. Several sources speak of its devices; what torch sees decides, and a disagreement is named.

Nothing here needs a driver: without one the answer is a machine without devices. The sources are functions and modules
that a caller may replace, so that a test can stand for a machine.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

GIB = 2**30
NVLINKS = 18  # links that a Hopper GPU has (NVML_NVLINK_MAX_LINKS)
BF16_SINCE, FP8_SINCE = (8, 0), (8, 9)  # compute capability: Ampere; Ada and Hopper (CUDA C++ Programming Guide)
TORCH_COUNT = "import torch; print(torch.cuda.device_count())"
RAY_COUNT = "import ray; ray.init(log_to_driver=False); print(int(ray.cluster_resources().get('GPU', 0)))"


@dataclass(frozen=True)
class Device:
    """One GPU as the driver describes it; memory in GB of 2^30 bytes."""

    name: str
    memory_gb: float
    capability: tuple[int, int]
    nvlink: bool = False

    @property
    def dtypes(self) -> list[str]:
        """The low precisions that its matrix units take."""
        found = [("bf16", BF16_SINCE), ("fp8", FP8_SINCE)]
        return [name for name, since in found if self.capability >= since]


@dataclass(frozen=True)
class Facts:
    """A machine. `ray` is None where no cluster was asked."""

    devices: tuple[Device, ...] = ()
    torch: int = 0
    visible: str | None = None
    ray: int | None = None
    host_memory_gb: float = 0.0
    shm_gb: float = 0.0
    disk_gb: float = 0.0

    def disagreements(self, configured: int | None = None) -> list[str]:
        """What the sources say that torch does not, with the numbers."""
        seen = f"this process sees {self.torch}"
        found = []
        if len(self.devices) != self.torch:
            hidden = f" (CUDA_VISIBLE_DEVICES={self.visible})" if self.visible is not None else ""
            found.append(f"nvidia-smi lists {len(self.devices)}, {seen}{hidden}")
        if self.ray is not None and self.ray != self.torch:
            found.append(f"Ray has {self.ray} GPUs, {seen}")
        if configured is not None and configured != self.torch:
            found.append(f"trainer.n_gpus_per_node={configured}, {seen}")
        if len({device.name for device in self.devices}) > 1:
            found.append("the devices differ: " + ", ".join(device.name for device in self.devices))
        return found

    @property
    def memory_gb(self) -> float:
        """Memory of the smallest device, since every rank holds as much as any other."""
        return min((device.memory_gb for device in self.devices), default=0.0)

    @property
    def interconnect(self) -> str | None:
        """How the devices of the node reach each other; None with fewer than two."""
        if len(self.devices) < 2:
            return None
        return "NVLink" if all(device.nvlink for device in self.devices) else "PCIe"


def look(
    nvml: Any = None,
    torch_count: Callable[[], int | None] | None = None,
    ray_count: Callable[[], int | None] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Facts:
    """The facts of this machine. torch and Ray are asked in processes of their own, and only where there is a driver."""
    host = Facts(host_memory_gb=_host_memory_gb(), shm_gb=_free_gb(Path("/dev/shm")), disk_gb=_free_gb(Path.cwd()))
    devices = driver_devices(nvml)
    if not devices:
        return host
    in_ray = (ray_count or _count_of(RAY_COUNT))() if environ.get("RAY_ADDRESS") else None
    seen = (torch_count or _count_of(TORCH_COUNT))() or 0
    return replace(host, devices=devices, torch=seen, visible=environ.get("CUDA_VISIBLE_DEVICES"), ray=in_ray)


def driver_devices(nvml: Any = None) -> tuple[Device, ...]:
    """The GPUs that the NVIDIA driver lists, whatever this process may use; none without a driver."""
    nvml = nvml or importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        return tuple(_device(nvml, number) for number in range(nvml.nvmlDeviceGetCount()))
    finally:
        nvml.nvmlShutdown()


def _device(nvml: Any, number: int) -> Device:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    name = nvml.nvmlDeviceGetName(handle)
    return Device(
        name.decode() if isinstance(name, bytes) else str(name),
        nvml.nvmlDeviceGetMemoryInfo(handle).total / GIB,
        tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
        any(_link_is_up(nvml, handle, link) for link in range(NVLINKS)),
    )


def _link_is_up(nvml: Any, handle: Any, link: int) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetNvLinkState(handle, link))
    except nvml.NVMLError:  # a device without this link
        return False


def _count_of(code: str) -> Callable[[], int | None]:
    """Ask in a process of its own: importing torch or Ray here would cost seconds, and could hold the devices."""

    def ask() -> int | None:
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        return int(answer.stdout.split()[-1]) if answer.returncode == 0 and answer.stdout.split() else None

    return ask


def _host_memory_gb() -> float:
    """Memory that this process may use: that of the machine, or of its control group if that is less (cgroup v2)."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text) / GIB) if text.isdigit() else total


def _free_gb(place: Path) -> float:
    return shutil.disk_usage(place).free / GIB if place.exists() else 0.0
