"""NVIDIA's GPUs as the driver lists them, and as the machine's own files show them where no driver answers.

A container shares the PCI bus and the kernel's module with its host, so these files speak of the host, too.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 2**30
NVLINKS = 18  # links that a Hopper GPU has (NVML_NVLINK_MAX_LINKS)
BF16_SINCE, FP8_SINCE = (8, 0), (8, 9)  # compute capability: Ampere; Ada and Hopper (CUDA C++ Programming Guide)
VENDOR, DISPLAY_CLASS = "0x10de", "0x03"  # PCI codes: NVIDIA; 0300 is a card with a screen, 0302 one without


@dataclass(frozen=True)
class Device:
    """One GPU; memory in GB of 2^30 bytes."""

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
class Driver:
    """NVIDIA's driver as this process finds it.

    `devices` are the GPUs that NVML lists, `error` is what NVML said where it did not answer. `version` is that of NVML,
    else of the kernel's module, and empty where neither is there. `files` counts /dev/nvidia0 and its kin, `on_bus` the
    display devices of NVIDIA on the PCI bus.
    """

    devices: tuple[Device, ...] = ()
    version: str = ""
    error: str = ""
    files: int = 0
    on_bus: int = 0

    @property
    def most(self) -> int:
        """How many GPUs there are by the source that sees the most."""
        return max(len(self.devices), self.files, self.on_bus)


def look(nvml: Any = None, root: Path = Path("/")) -> Driver:
    """The driver of this machine; `nvml` stands in for pynvml, and `root` for the root of its files."""
    devices, version, error = _ask(nvml or importlib.import_module("pynvml"))
    files = len(list(root.glob("dev/nvidia[0-9]*")))
    return Driver(devices, version or _module_version(root), error, files, _on_bus(root))


def _ask(nvml: Any) -> tuple[tuple[Device, ...], str, str]:
    """The GPUs that NVML lists, the driver's version, and NVML's error. A GPU that is lost keeps no other from being listed."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as failure:
        return (), "", str(failure)
    devices, error, version = [], "", ""
    try:
        version = _text(nvml.nvmlSystemGetDriverVersion())
        for number in range(nvml.nvmlDeviceGetCount()):
            try:
                devices.append(_device(nvml, number))
            except nvml.NVMLError as failure:
                error = f"GPU {number}: {failure}"
    except nvml.NVMLError as failure:
        error = str(failure)
    finally:
        nvml.nvmlShutdown()
    return tuple(devices), version, error


def _device(nvml: Any, number: int) -> Device:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    return Device(
        _text(nvml.nvmlDeviceGetName(handle)),
        nvml.nvmlDeviceGetMemoryInfo(handle).total / GIB,
        tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
        any(_link_is_up(nvml, handle, link) for link in range(NVLINKS)),
    )


def _text(answer: bytes | str) -> str:
    return answer.decode() if isinstance(answer, bytes) else str(answer)


def _link_is_up(nvml: Any, handle: Any, link: int) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetNvLinkState(handle, link))
    except nvml.NVMLError:  # a device without this link
        return False


def _module_version(root: Path) -> str:
    """The version of the kernel's module, e.g. "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar ..."."""
    found = re.search(r"\b\d{3,}\.\d[\d.]*", _read(root / "proc/driver/nvidia/version"))
    return found[0] if found else ""


def _on_bus(root: Path) -> int:
    places = (root / "sys/bus/pci/devices").glob("*")
    return sum(
        _read(place / "vendor") == VENDOR and _read(place / "class").startswith(DISPLAY_CLASS) for place in places
    )


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
