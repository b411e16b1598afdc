"""The sources of hardware facts are compared, and what torch can use decides. A fake driver stands for the machine."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from posttrain_verl.machine import devices
from posttrain_verl.machine.devices import GIB, Device, MachineFacts, TorchBuild, TorchDevices


class FakeDriver:
    """What pynvml answers on a machine with these GPUs: (name, GB, compute capability, links that are up)."""

    class NVMLError(Exception):
        pass

    def __init__(self, *gpus: tuple[str, float, tuple[int, int], int]):
        self.gpus = gpus
        self.open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95.05"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, number: int):
        return self.gpus[number]

    def nvmlDeviceGetName(self, gpu) -> str:
        return gpu[0]

    def nvmlDeviceGetMemoryInfo(self, gpu) -> SimpleNamespace:
        return SimpleNamespace(total=gpu[1] * GIB)

    def nvmlDeviceGetCudaComputeCapability(self, gpu) -> tuple[int, int]:
        return gpu[2]

    def nvmlDeviceGetNvLinkState(self, gpu, link: int) -> int:
        if gpu[3] == 0:
            raise self.NVMLError("not supported")
        return int(link < gpu[3])


H100 = ("NVIDIA H100 80GB HBM3", 79.6, (9, 0), 18)
A10 = ("NVIDIA A10", 22.5, (8, 6), 0)
V100 = ("Tesla V100", 32.0, (7, 0), 6)


CUDA = TorchBuild("2.11.0+cu130", "13.0")


def never():
    raise AssertionError("asked without need")


def usable(*gpus) -> TorchDevices:
    """torch can use these; it reports half a GB less than the driver does."""
    return TorchDevices(tuple(Device(name, memory - 0.5, capability) for name, memory, capability, _ in gpus))


def look(driver, answer: TorchDevices, ray_count=never, environ=None, root="/nowhere") -> MachineFacts:
    return devices.inspect_machine(driver, lambda: answer, ray_count, CUDA, environ or {}, Path(root))


def test_a_node_of_h100():
    driver = FakeDriver(*[H100] * 8)
    seen = look(driver, usable(*[H100] * 8))
    assert (len(seen.devices), seen.torch, seen.interconnect, seen.memory_gb) == (8, 8, "NVLink", 79.1)
    assert seen.described[0].dtypes == ["bf16", "fp8"]
    assert seen.disagreements("trainer.n_gpus_per_node", 8) == []
    assert driver.open == 0


@pytest.mark.parametrize(("gpu", "dtypes"), [(A10, ["bf16"]), (V100, [])])
def test_low_precision_follows_the_compute_capability(gpu, dtypes):
    assert devices.read_driver(FakeDriver(gpu)).devices[0].dtypes == dtypes


def test_without_links_it_is_pcie_and_alone_it_is_nothing():
    assert look(FakeDriver(A10, A10), usable(A10, A10)).interconnect == "PCIe"
    assert look(FakeDriver(H100), usable(H100)).interconnect is None


def test_a_hidden_device_is_named_with_the_numbers():
    seen = look(FakeDriver(*[H100] * 8), usable(H100), environ={"CUDA_VISIBLE_DEVICES": "0"})
    assert seen.disagreements() == ["nvidia-smi lists 8, this process sees 1 (CUDA_VISIBLE_DEVICES=0)"]


def test_ray_and_the_config_are_compared():
    seen = look(FakeDriver(*[H100] * 8), usable(*[H100] * 8), lambda: 16, {"RAY_ADDRESS": "10.0.0.1:6379"})
    assert seen.disagreements("trainer.n_gpus_per_node", 4) == [
        "Ray has 16 GPUs, this process sees 8",
        "trainer.n_gpus_per_node=4, this process sees 8",
    ]


def test_unlike_devices_are_named_and_the_smallest_that_can_be_used_counts():
    seen = look(FakeDriver(H100, A10), usable(H100, A10))
    assert seen.memory_gb == 22.0
    assert seen.disagreements() == ["the devices differ: NVIDIA A10, NVIDIA H100 80GB HBM3"]
    chosen = look(FakeDriver(H100, A10), usable(H100), environ={"CUDA_VISIBLE_DEVICES": "0"})
    assert chosen.memory_gb == 79.1 and "differ" not in " ".join(chosen.disagreements())


def test_a_torch_that_can_use_none_sees_none_and_says_why():
    seen = look(FakeDriver(H100), TorchDevices((), "The NVIDIA driver on your system is too old"))
    assert (seen.torch, seen.torch_said) == (0, "The NVIDIA driver on your system is too old")


def test_a_torch_that_does_not_answer_in_time_is_taken_to_use_what_the_driver_lists():
    assert look(FakeDriver(H100), TorchDevices(None, "torch did not answer")).torch == 1


def test_a_lost_gpu_keeps_no_other_from_being_listed():
    class Lost(FakeDriver):
        def nvmlDeviceGetMemoryInfo(self, gpu):
            if gpu is A10:
                raise self.NVMLError("GPU is lost")
            return super().nvmlDeviceGetMemoryInfo(gpu)

    driver = devices.read_driver(Lost(H100, A10, H100))
    assert (len(driver.devices), driver.error) == (2, "GPU 1: GPU is lost")


class NoDriver(FakeDriver):
    """A machine without libnvidia-ml."""

    def nvmlInit(self) -> None:
        raise self.NVMLError("NVML Shared Library Not Found")


def test_without_a_gpu_nobody_else_is_asked(tmp_path):
    seen = devices.inspect_machine(NoDriver(), never, never, CUDA, {"RAY_ADDRESS": "10.0.0.1:6379"}, tmp_path)
    assert (seen.devices, seen.torch, seen.ray, seen.driver.error) == ((), 0, None, "NVML Shared Library Not Found")
    assert seen.host_memory_gb > 0.1


def test_a_cpu_build_of_torch_and_hidden_devices_need_no_answer():
    assert devices.inspect_machine(FakeDriver(H100), never, never, TorchBuild("2.13.0+cpu"), {}).torch == 0
    assert devices.inspect_machine(FakeDriver(H100), never, never, CUDA, {"CUDA_VISIBLE_DEVICES": ""}).hidden


def test_a_container_with_cuda_and_without_nvml_uses_its_gpus(tmp_path):
    """NVIDIA_DRIVER_CAPABILITIES=compute brings libcuda and no libnvidia-ml."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    seen = look(NoDriver(), usable(H100), root=tmp_path)
    assert (seen.torch, seen.memory_gb, seen.described[0].dtypes) == (1, 79.1, ["bf16", "fp8"])
    assert seen.disagreements() == []


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:  gcc version "
         "12.2.0", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22)", "580.95.05"),
    ],
)  # fmt: skip
def test_the_files_of_the_machine(tmp_path, text, version):
    for folder in ("proc/driver/nvidia", "dev"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(text)
    for name in ("nvidia0", "nvidia11", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    codes = [("0x10de", "0x030200"), ("0x10de", "0x030000"), ("0x10de", "0x040300"), ("0x10de", "0x068000"),
             ("0x8086", "0x030000")]  # fmt: skip
    for number, (vendor, kind) in enumerate(codes):  # the third is the card's sound, the fourth an NVSwitch
        place = tmp_path / f"sys/bus/pci/devices/0000:0{number}:00.0"
        place.mkdir(parents=True)
        (place / "vendor").write_text(vendor + "\n")
        (place / "class").write_text(kind + "\n")
    driver = devices.read_driver(NoDriver(), tmp_path)
    assert (driver.version, driver.files, driver.on_bus, driver.most) == (version, 2, 2, 2)


def test_the_build_is_read_from_the_installed_torch():
    asked = subprocess.check_output(
        [sys.executable, "-c", "import torch; print(torch.__version__, torch.version.cuda)"]
    )
    build = devices.torch_build()
    assert asked.decode().split() == [build.version, str(build.cuda)]


@pytest.mark.slow
def test_torch_is_asked_in_a_process_of_its_own():
    devices.ask_torch.cache_clear()
    told = devices.ask_torch(None)
    assert told.devices is not None and "torch" not in told.said


def test_a_torch_that_does_not_import_says_its_last_line(monkeypatch):
    monkeypatch.setattr(
        devices, "TORCH_DEVICES", "raise ImportError('libcudart.so.13: cannot open shared object file')"
    )
    devices.ask_torch.cache_clear()
    told = devices.ask_torch(None)
    assert told == TorchDevices((), "ImportError: libcudart.so.13: cannot open shared object file")
    devices.ask_torch.cache_clear()


def test_no_devices_no_memory():
    assert MachineFacts().memory_gb == 0
    assert Device("x", 1, (8, 9)).dtypes == ["bf16", "fp8"]


def test_a_question_to_ray_is_not_asked_as_part_of_a_job(monkeypatch):
    """A second driver of the job would set up its current folder anew on every node."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {"working_dir": "gcs://it.zip"}}')
    asked = []
    monkeypatch.setattr(
        devices, "_run_python", lambda code, environ: asked.append(environ) or SimpleNamespace(returncode=1, stdout="")
    )
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    assert devices.kinds_in_ray() == () and devices._count_in_ray() is None
    assert asked and not any("RAY_JOB_CONFIG_JSON_ENV_VAR" in environ for environ in asked)


def test_the_resources_of_a_cluster(monkeypatch):
    answer = (
        "ray's own line\n" + '{"CPU": 8.0, "GPU": 16.0, "accelerator_type:H100": 2.0, "accelerator_type:A100": 1.0}'
    )
    monkeypatch.setattr(devices, "_run_python", lambda code, environ: SimpleNamespace(returncode=0, stdout=answer))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.10:6379")
    assert devices.kinds_in_ray() == ("A100", "H100") and devices._count_in_ray() == 16
