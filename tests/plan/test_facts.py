"""The sources of hardware facts are compared, and torch's count decides. A fake driver stands for the machine."""

from types import SimpleNamespace

import pynvml
import pytest

from posttrain_verl.plan import facts
from posttrain_verl.plan.facts import GIB, Device, Facts


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


def never() -> int:
    raise AssertionError("asked without need")


def test_a_node_of_h100():
    driver = FakeDriver(*[H100] * 8)
    seen = facts.look(driver, lambda: 8, never, environ={})
    assert (len(seen.devices), seen.torch, seen.interconnect, seen.memory_gb) == (8, 8, "NVLink", 79.6)
    assert seen.devices[0].dtypes == ["bf16", "fp8"]
    assert seen.disagreements(configured=8) == []
    assert driver.open == 0


@pytest.mark.parametrize(("gpu", "dtypes"), [(A10, ["bf16"]), (V100, [])])
def test_low_precision_follows_the_compute_capability(gpu, dtypes):
    assert facts.driver_devices(FakeDriver(gpu))[0].dtypes == dtypes


def test_without_links_it_is_pcie_and_alone_it_is_nothing():
    assert facts.look(FakeDriver(A10, A10), lambda: 2, never, {}).interconnect == "PCIe"
    assert facts.look(FakeDriver(H100), lambda: 1, never, {}).interconnect is None


def test_a_hidden_device_is_named_with_the_numbers():
    seen = facts.look(FakeDriver(*[H100] * 8), lambda: 1, never, {"CUDA_VISIBLE_DEVICES": "0"})
    assert seen.disagreements() == ["nvidia-smi lists 8, this process sees 1 (CUDA_VISIBLE_DEVICES=0)"]


def test_ray_and_the_config_are_compared():
    seen = facts.look(FakeDriver(*[H100] * 8), lambda: 8, lambda: 16, {"RAY_ADDRESS": "10.0.0.1:6379"})
    assert seen.disagreements(configured=4) == [
        "Ray has 16 GPUs, this process sees 8",
        "trainer.n_gpus_per_node=4, this process sees 8",
    ]


def test_unlike_devices_are_named_and_the_smallest_counts():
    seen = facts.look(FakeDriver(H100, A10), lambda: 2, never, {})
    assert seen.memory_gb == 22.5
    assert seen.disagreements() == ["the devices differ: NVIDIA H100 80GB HBM3, NVIDIA A10"]


def test_a_torch_that_cannot_answer_sees_nothing():
    assert facts.look(FakeDriver(H100), lambda: None, never, {}).torch == 0


def test_no_driver_asks_nobody_else(monkeypatch):
    def fail() -> None:
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    seen = facts.look(None, never, never, {"RAY_ADDRESS": "10.0.0.1:6379"})
    assert (seen.devices, seen.torch, seen.ray) == ((), 0, None)
    assert seen.host_memory_gb > 0.1
    assert seen.disk_gb > 0


def test_the_questions_are_answered_by_real_processes():
    assert facts._count_of("print('a warning'); print(3)")() == 3
    assert facts._count_of("raise SystemExit(1)")() is None


def test_no_devices_no_memory():
    assert Facts().memory_gb == 0
    assert Device("x", 1, (8, 9)).dtypes == ["bf16", "fp8"]
