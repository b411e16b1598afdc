"""How engines share the devices, and how their answers come together."""

import pytest

from posttrain_verl.evaluate import replicas
from posttrain_verl.evaluate.engine import Work
from posttrain_verl.evaluate.replicas import EngineFailed, Layout, merge_streams
from posttrain_verl.machine import devices
from posttrain_verl.machine.devices import Device, Driver, MachineFacts, TorchBuild
from posttrain_verl.terminal.problem import InputError


def visible(plan):
    return [replicas._device_variables(plan, place).get("CUDA_VISIBLE_DEVICES") for place in range(plan.replicas)]


def test_each_engine_has_its_own_devices(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible(Layout(False, 8, 4, 2, False)) == ["0,1", "2,3", "4,5", "6,7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible(Layout(False, 8, 2, 1, False)) == ["3", "5"]


def test_engines_on_a_cpu_share_its_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert replicas._device_variables(Layout(True, 0, 1, 1, False), 0) == {}, "one engine may have all"
    cores = [
        replicas._device_variables(Layout(True, 0, 2, 1, False), place)["VLLM_CPU_OMP_THREADS_BIND"] for place in (0, 1)
    ]
    assert cores == ["0,2", "1,3"]


def test_a_model_on_disk_asks_no_hub(tmp_path):
    def variables(model):
        return replicas._engine_variables(Work(str(model), [], 0.0, 1.0, 1, 0), Layout(True, 0, 1, 1, False))

    assert variables(tmp_path)["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in variables("Org/Model")


@pytest.mark.parametrize(("devices", "tensor_parallel", "expected"), [(8, 1, 8), (8, 4, 2), (2, 4, 1), (0, 1, 1)])
def test_as_many_engines_as_there_is_room_for(monkeypatch, devices, tensor_parallel, expected):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(replicas, "_local_devices", lambda: (devices == 0, devices))
    assert replicas.plan_layout(None, tensor_parallel).replicas == expected
    assert replicas.plan_layout(3, tensor_parallel).replicas == 3


H100 = Device("NVIDIA H100 80GB HBM3", 79.6, (9, 0))


@pytest.fixture
def beside_gpus(monkeypatch):
    """`beside_gpus(build)`: a machine with a GPU that this build of torch cannot use."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    driver = Driver((H100,), "550.54.15", "", 1, 1)

    def make(build: TorchBuild) -> None:
        monkeypatch.setattr(
            devices, "inspect_machine", lambda: MachineFacts(driver.devices, driver=driver, build=build)
        )

    return make


def test_gpus_that_an_environment_for_them_cannot_use_are_no_evaluation_on_the_cpu(beside_gpus):
    beside_gpus(TorchBuild("2.11.0+cu130", "13.0"))
    with pytest.raises(InputError, match="needs driver 580 or newer"):
        replicas.plan_layout(None, 1)


def test_a_cpu_environment_evaluates_on_the_cpu_and_says_what_it_leaves_unused(beside_gpus, told):
    beside_gpus(TorchBuild("2.13.0+cpu"))
    assert replicas.plan_layout(None, 1) == Layout(True, 0, 1, 1, False)
    assert "this machine has 1 GPU (NVIDIA H100 80GB HBM3)" in " ".join(told)


def test_streams_come_together_and_a_failure_is_raised():
    assert sorted(merge_streams([iter([1, 3]), iter([2]), iter([])])) == [1, 2, 3]

    def broken():
        yield 1
        raise EngineFailed("gone")

    with pytest.raises(EngineFailed, match="gone"):
        list(merge_streams([broken(), iter([2])]))
