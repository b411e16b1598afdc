"""The devices of this machine, and why torch cannot use those that are there.

The driver, the machine's own files, torch and Ray are asked. The devices that torch can use decide, and disagreements are
reported. GPUs that cannot be used never lead to a silent run on the CPU.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from posttrain_verl.terminal.problem import Problem, warning

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

    `devices` are the GPUs that NVML lists, and `error` is NVML's error where it did not answer. `version` comes from NVML,
    else from the kernel's module, and is empty without both. `files` counts /dev/nvidia0 and its siblings, `on_bus` the
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


def read_driver(nvml: Any = None, root: Path = Path("/")) -> Driver:
    """The driver of this machine; `nvml` stands in for pynvml, and `root` for the root of its files."""
    devices, version, error = _ask_nvml(nvml or importlib.import_module("pynvml"))
    # E.g. "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar ...".
    module = re.search(r"\b\d{3,}\.\d[\d.]*", _read_file(root / "proc/driver/nvidia/version"))
    on_bus = [
        _read_file(place / "vendor") == VENDOR and _read_file(place / "class").startswith(DISPLAY_CLASS)
        for place in (root / "sys/bus/pci/devices").glob("*")
    ]
    files = len(list(root.glob("dev/nvidia[0-9]*")))
    return Driver(devices, version or (module[0] if module else ""), error, files, sum(on_bus))


def _read_file(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _ask_nvml(nvml: Any) -> tuple[tuple[Device, ...], str, str]:
    """The GPUs that NVML lists, the driver's version, and NVML's error. The others are listed beside a GPU that is lost."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as failure:
        return (), "", str(failure)
    devices, error, version = [], "", ""
    try:
        version = _decode_text(nvml.nvmlSystemGetDriverVersion())
        for number in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(number)
                name, memory = _decode_text(nvml.nvmlDeviceGetName(handle)), nvml.nvmlDeviceGetMemoryInfo(handle).total
                capability = tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle))
                linked = any(_link_is_up(nvml, handle, link) for link in range(NVLINKS))
                devices.append(Device(name, memory / GIB, capability, linked))
            except nvml.NVMLError as failure:
                error = f"GPU {number}: {failure}"
    except nvml.NVMLError as failure:
        error = str(failure)
    finally:
        nvml.nvmlShutdown()
    return tuple(devices), version, error


def _decode_text(answer: bytes | str) -> str:
    return answer.decode() if isinstance(answer, bytes) else str(answer)


def _link_is_up(nvml: Any, handle: Any, link: int) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetNvLinkState(handle, link))
    except nvml.NVMLError:  # a device without this link
        return False


RAY_RESOURCES = "import json, ray; ray.init(log_to_driver=False); print(json.dumps(ray.cluster_resources()))"
# torch.cuda.device_count() answers from NVML, so it counts devices that torch cannot use with a driver that is too old.
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
ANSWER_SECONDS = 300  # seconds for an import of torch or Ray from a slow file system


@dataclass(frozen=True)
class TorchBuild:
    """The installed torch: its version, and the release of CUDA that it was built for (None for a CPU build)."""

    version: str = ""
    cuda: str | None = None


@dataclass(frozen=True)
class TorchDevices:
    """The devices that torch can use (None where it did not answer in time), and its error where it can use none."""

    devices: tuple[Device, ...] | None = ()
    said: str = ""


@dataclass(frozen=True)
class MachineFacts:
    """A machine. `devices` are those that the driver lists, `torch` counts those that torch can use, and `usable` describes
    them. `ray` is None where no cluster was asked.
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

    def disagreements(self, key: str = "", configured: int | None = None) -> list[str]:
        """Where other sources disagree with torch, with the numbers. `configured` is the value of `key`."""
        seen = f"this process sees {self.torch}"
        found = []
        if self.devices and len(self.devices) != self.torch:
            hidden = f" (CUDA_VISIBLE_DEVICES={self.visible})" if self.visible is not None else ""
            found.append(f"nvidia-smi lists {len(self.devices)}, {seen}{hidden}")
        if self.ray is not None and self.ray != self.torch:
            found.append(f"Ray has {self.ray} GPUs, {seen}")
        if configured is not None and configured != self.torch:
            found.append(f"{key}={configured}, {seen}")
        if len(names := {device.name for device in self.described}) > 1:
            found.append("the devices differ: " + ", ".join(sorted(names)))
        return found

    @property
    def described(self) -> tuple[Device, ...]:
        """The devices of a run: those that torch can use, else all that the driver lists."""
        return self.usable or self.devices

    @property
    def memory_gb(self) -> float:
        """Memory of the smallest device, because every rank holds as much as any other."""
        return min((device.memory_gb for device in self.described), default=0.0)

    @property
    def interconnect(self) -> str | None:
        """How the devices of the node reach each other; None where the driver lists fewer than two."""
        if len(self.devices) < 2:
            return None
        return "NVLink" if all(device.nvlink for device in self.devices) else "PCIe"

    @property
    def hidden(self) -> bool:
        """Whether the user hides every device from this process, and so chooses the CPU (CUDA C++ Programming Guide)."""
        return self.visible is not None and self.visible.split(",")[0].strip() in ("", "-1")


def inspect_machine(
    nvml: Any = None,
    torch_devices: Callable[[], TorchDevices] | None = None,
    ray_count: Callable[[], int | None] | None = None,
    build: TorchBuild | None = None,
    environ: Mapping[str, str] | None = None,
    root: Path = Path("/"),
) -> MachineFacts:
    """The facts of this machine. torch and Ray are asked in separate processes, and only where there is a GPU."""
    environ = os.environ if environ is None else environ
    driver, build = read_driver(nvml, root), build or torch_build()
    seen = MachineFacts(devices=driver.devices, driver=driver, build=build, visible=environ.get("CUDA_VISIBLE_DEVICES"),
                 host_memory_gb=_host_memory_gb())  # fmt: skip
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
        answer = _run_python(TORCH_DEVICES, environ)
    except subprocess.TimeoutExpired:
        return TorchDevices(None, f"torch did not answer within {ANSWER_SECONDS} s")
    lines = (answer.stdout if answer.returncode == 0 else answer.stderr).strip().splitlines()
    if answer.returncode:
        return TorchDevices((), lines[-1] if lines else f"torch ended with exit code {answer.returncode}")
    found = json.loads(lines[-1])
    devices = tuple(Device(name, memory / GIB, tuple(capability)) for name, memory, capability in found["devices"])
    return TorchDevices(devices, found["said"])


def _count_in_ray() -> int | None:
    resources = _ask_ray(os.environ.get("RAY_ADDRESS"))
    return None if resources is None else int(resources.get("GPU", 0))


def kinds_in_ray() -> tuple[str, ...]:
    """The kinds of GPU in the cluster of RAY_ADDRESS, e.g. ("H100",); empty where it has none, or does not answer.

    Ray names the kind of a real GPU. The logical ones of the CPU backend have none.
    """
    names = _ask_ray(os.environ.get("RAY_ADDRESS")) or {}
    return tuple(sorted(name.partition(":")[2] for name in names if name.startswith("accelerator_type:")))


@cache
def _ask_ray(address: str | None) -> dict[str, float] | None:
    """The resources of the cluster at `address`, which RAY_ADDRESS names; None where it does not answer.

    The question is not part of the job of this process. Ray would set up the job's runtime environment again on every node,
    which takes the current folder from the job where two nodes share a disk.
    """
    environ = {name: value for name, value in os.environ.items() if name != "RAY_JOB_CONFIG_JSON_ENV_VAR"}
    try:
        answer = _run_python(RAY_RESOURCES, environ)
    except subprocess.TimeoutExpired:
        return None
    lines = answer.stdout.splitlines() if answer.returncode == 0 else []
    return dict(json.loads(lines[-1])) if lines else None


def _run_python(code: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run code in a separate process: importing torch or Ray here would cost seconds, and could hold the devices."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, env=environ)


def _host_memory_gb() -> float:
    """Memory that this process may use: that of the machine, or of its control group if that is less (cgroup v2)."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text) / GIB) if text.isdigit() else total


# The driver that each major release of CUDA needs on Linux: NVIDIA's "CUDA Compatibility", minor version compatibility
# (docs.nvidia.com/deploy/cuda-compatibility), and the CUDA Toolkit release notes for the third number.
NEEDED_DRIVERS = {"12": "525.60.13", "13": "580"}
ON_THE_CPU = (
    "to train a small model on the CPU: hardware=cpu, or `export CUDA_VISIBLE_DEVICES=` for all commands of this shell"
)
IN_A_CONTAINER = (
    "docker run --gpus all, with nvidia-container-toolkit on the host; on Kubernetes ask for nvidia.com/gpu"
)
IN_SLURM = "in a job of Slurm ask for them (--gpus=N)"


def find_trouble(seen: MachineFacts) -> Problem | None:
    """What keeps torch from the GPUs that are there; None where it can use one, there is none, or the user hides them.

    A CPU environment beside GPUs that nothing here can reach gets only a warning, because a pod that asked for no GPU on a
    node with GPUs looks the same.
    """
    if seen.torch or seen.hidden or not seen.driver.most:
        return None
    if seen.build.cuda is None:
        build = f"torch {seen.build.version} is built without CUDA" if seen.build.version else "there is no torch"
        if not seen.devices:
            what, reach = _describe_unreachable(seen)
            return warning(f"{what}; {build}, so this runs on the CPU", f"for a run on GPUs: {reach.splitlines()[0]}")
        what = f"this machine has {_describe_gpus(seen)}, and this environment cannot use them: {build}"
        return Problem(what, f"to train on them: rm -r .venv, then make setup WORLD=gpu\n{ON_THE_CPU}")
    if not seen.devices:
        return Problem(*_describe_unreachable(seen))
    return _too_old_driver(seen) or _unusable_devices(seen)


def needed_driver(cuda: str | None) -> str:
    """The oldest driver for a torch that was built for this release of CUDA; empty where it is not known here."""
    return NEEDED_DRIVERS.get((cuda or "").partition(".")[0], "")


def _describe_gpus(seen: MachineFacts) -> str:
    names = sorted({device.name for device in seen.devices})
    return f"{_count_gpus(len(seen.devices))} ({', '.join(names)})"


def _count_gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _too_old_driver(seen: MachineFacts) -> Problem | None:
    """An old driver is a problem only where torch can use no GPU: NVIDIA's cuda-compat lets it serve a newer CUDA."""
    cuda, version = seen.build.cuda, seen.driver.version
    needed = needed_driver(cuda)
    present, least = ([int(part) for part in each.split(".") if part.isdecimal()] for each in (version, needed))
    if not needed or not version or present >= least:
        return None
    if seen.visible is not None and "too old" not in seen.torch_said:  # then CUDA_VISIBLE_DEVICES may be the reason
        return None
    what = (
        f"torch {seen.build.version} was built for CUDA {cuda}, which needs driver {needed} or newer; this machine has "
    )
    what += f"{version}, so torch can use none of its {_describe_gpus(seen)}"
    package = f"cuda-compat-{str(cuda).replace('.', '-')}"
    remedy = f"install driver {needed} or newer; on data-center GPUs NVIDIA's package {package} beside the present one may do"
    return Problem(what, f"{remedy}\n{ON_THE_CPU}")


def _unusable_devices(seen: MachineFacts) -> Problem:
    """The driver lists devices and is new enough: torch's own error, and what helps with it."""
    driver, build = f"driver {seen.driver.version} lists {_describe_gpus(seen)}", seen.build.version
    error = f": {seen.torch_said.splitlines()[0]}" if seen.torch_said else ""
    if seen.visible is not None:
        remedy = f"CUDA_VISIBLE_DEVICES={seen.visible}: unset it, or name devices that are there; {IN_SLURM}"
    elif "802" in seen.torch_said:  # cudaErrorSystemNotReady
        remedy = "on a machine with NVSwitch start nvidia-fabricmanager, in the driver's own version"
    else:
        remedy = "`python -c 'import torch; torch.cuda.init()'` says more; is /dev/nvidia-uvm there (nvidia-modprobe -u -c=0)?"
    return Problem(f"{driver}, and torch {build} can use none{error}", f"{remedy}\n{ON_THE_CPU}")


def _describe_unreachable(seen: MachineFacts) -> tuple[str, str]:
    """GPUs on the bus or among the device files that no driver lists for this process."""
    driver, there = seen.driver, f"this machine has {_count_gpus(seen.driver.most)} of NVIDIA"
    if driver.version and not driver.files:
        what = f"{there} and driver {driver.version}, and none reaches this process: there is no /dev/nvidia0"
        return what, f"in a container: {IN_A_CONTAINER}\n{ON_THE_CPU}"
    if driver.version and not driver.error:
        what = f"{there} and driver {driver.version}, which lists none of them for this process"
        return what, f"{IN_SLURM}; in a container: {IN_A_CONTAINER}\n{ON_THE_CPU}"
    needed = needed_driver(seen.build.cuda)
    if driver.version:
        what = f"{there} and driver {driver.version}, and NVML does not list them: {driver.error}"
        return what, f"nvidia-smi must list them first: reboot after an update of the driver\n{ON_THE_CPU}"
    what = f"{there}, and no driver of NVIDIA is loaded ({driver.error})"
    install = f"install driver {needed} or newer" if needed else "install NVIDIA's driver"
    return what, f"{install}, and load it (modprobe nvidia); in a container: {IN_A_CONTAINER}\n{ON_THE_CPU}"


@dataclass(frozen=True)
class Machine:
    """A detected machine: the file of conf/hardware/ that holds its settings, why, and what it has."""

    name: str
    reason: str
    facts: MachineFacts = field(default_factory=MachineFacts)

    @property
    def devices(self) -> int:
        """How many devices torch can use."""
        return self.facts.torch

    @property
    def trouble(self) -> Problem | None:
        """What keeps torch from GPUs that are there."""
        return find_trouble(self.facts)


def detect_machine() -> Machine:
    """Inspect this machine. It counts as a CPU without a GPU of NVIDIA, where the user hides them, and in a CPU environment.

    `trouble` then says what is unused. GPUs that the driver lists and a CUDA build of torch cannot use are planned for, and
    preflight refuses.
    """
    seen = inspect_machine()
    if seen.torch:
        return Machine("auto", "; ".join([f"torch sees {seen.torch} devices", *seen.disagreements()]), seen)
    if seen.hidden and seen.driver.most:
        return Machine("cpu", f"CUDA_VISIBLE_DEVICES={seen.visible} hides every GPU", seen)
    if (found := find_trouble(seen)) is None:
        return Machine("cpu", "no GPU of NVIDIA", seen)
    return Machine("auto" if seen.devices and seen.build.cuda else "cpu", found.what, seen)
