"""Driver, device files, environment and wish, combined: a CPU run is never silent, and never refused where it was asked for."""

from pathlib import Path

import pytest

from posttrain_verl.machine import devices
from posttrain_verl.machine.devices import Device, Driver, MachineFacts, TorchBuild

ROOT = Path(__file__).resolve().parents[2]
H100 = Device("NVIDIA H100 80GB HBM3", 79.6, (9, 0), nvlink=True)
NO_LIBRARY = "NVML Shared Library Not Found"

# What the machine shows: NVML's list, and the files.
MACHINES = {
    "no GPU": Driver(error=NO_LIBRARY),
    "an image with a driver on a machine without a GPU": Driver((), "", "Driver Not Loaded"),
    "8 H100, driver 580": Driver((H100,) * 8, "580.95.05", "", 8, 8),
    "8 H100, driver 550": Driver((H100,) * 8, "550.54.15", "", 8, 8),
    "8 H100, driver 525": Driver((H100,) * 8, "525.60.13", "", 8, 8),
    "8 H100, driver 520": Driver((H100,) * 8, "520.61.05", "", 8, 8),
    "WSL": Driver((H100,), "581.29", "", 0, 0),
    "a container without the runtime": Driver((), "580.95.05", NO_LIBRARY, 0, 8),
    "a container that hides the module": Driver((), "", NO_LIBRARY, 0, 8),
    "a job that was given none": Driver((), "580.95.05", "", 8, 8),
    "a driver that was updated without a reboot": Driver((), "580.82.07", "Driver/library version mismatch", 8, 8),
    "a card without a driver": Driver((), "", NO_LIBRARY, 0, 1),
}
CPU, NONE = TorchBuild("2.13.0+cpu"), TorchBuild()
CUDA13, CUDA12 = TorchBuild("2.11.0+cu130", "13.0"), TorchBuild("2.11.0+cu126", "12.6")

# Machine, torch, devices that it can use, CUDA_VISIBLE_DEVICES, what torch says: the hardware, the level, part of the message.
TABLE = [
    ("no GPU", CPU, 0, None, "", "cpu", None, ""),
    ("no GPU", CUDA13, 0, None, "", "cpu", None, ""),
    ("an image with a driver on a machine without a GPU", CPU, 0, None, "", "cpu", None, ""),
    ("8 H100, driver 580", CUDA13, 8, None, "", "auto", None, ""),
    ("8 H100, driver 580", CUDA12, 8, None, "", "auto", None, ""),
    ("8 H100, driver 580", CUDA13, 1, "3", "", "auto", None, ""),
    ("8 H100, driver 580", CUDA13, 0, "", "", "cpu", None, ""),
    ("8 H100, driver 580", CUDA13, 0, "-1", "", "cpu", None, ""),
    ("8 H100, driver 580", CPU, 0, "", "", "cpu", None, ""),
    ("8 H100, driver 580", CPU, 0, None, "", "cpu", "problem", "8 GPUs (NVIDIA H100 80GB HBM3), and this environment cannot"),
    ("8 H100, driver 580", NONE, 0, None, "", "cpu", "problem", "there is no torch"),
    ("8 H100, driver 580", CUDA13, 0, None, "Error 802: system not yet initialized", "auto", "problem", "nvidia-fabricmanager"),
    ("8 H100, driver 580", CUDA13, 0, None, "out of memory", "auto", "problem", "torch 2.11.0+cu130 can use none: out of memory"),
    ("8 H100, driver 580", CUDA13, 0, "NoDevFiles", "", "auto", "problem", "--gpus=N"),
    ("8 H100, driver 580", CUDA13, 0, "9", "", "auto", "problem", "CUDA_VISIBLE_DEVICES=9: unset it"),
    ("8 H100, driver 550", CUDA13, 0, None, "old", "auto", "problem", "needs driver 580 or newer; this machine has 550.54.15"),
    ("8 H100, driver 550", CUDA13, 0, "0", "is too old", "auto", "problem", "needs driver 580 or newer"),
    ("8 H100, driver 550", CUDA13, 0, "9", "no device", "auto", "problem", "CUDA_VISIBLE_DEVICES=9: unset it"),  # cuda-compat
    ("8 H100, driver 550", CUDA13, 8, None, "", "auto", None, ""),  # with cuda-compat
    ("8 H100, driver 550", CUDA12, 8, None, "", "auto", None, ""),
    ("8 H100, driver 525", CUDA12, 0, None, "busy", "auto", "problem", "driver 525.60.13 lists 8 GPUs"),
    ("8 H100, driver 520", CUDA12, 0, None, "", "auto", "problem", "needs driver 525.60.13 or newer; this machine has 520.61.05"),
    ("8 H100, driver 520", CPU, 0, None, "", "cpu", "problem", "make setup WORLD=gpu"),
    ("WSL", CUDA13, 1, None, "", "auto", None, ""),
    ("WSL", CPU, 0, None, "", "cpu", "problem", "1 GPU (NVIDIA H100 80GB HBM3)"),
    ("a container without the runtime", CUDA13, 0, None, "", "cpu", "problem", "docker run --gpus all"),
    ("a container without the runtime", CUDA13, 8, None, "", "auto", None, ""),  # libcuda without libnvidia-ml
    ("a container without the runtime", CPU, 0, None, "", "cpu", "warning", "none reaches this process"),
    ("a container that hides the module", CUDA13, 0, None, "", "cpu", "problem", "in a container: docker run --gpus all"),
    ("a container that hides the module", CPU, 0, None, "", "cpu", "warning", "so this runs on the CPU"),
    ("a job that was given none", CUDA13, 0, None, "", "cpu", "problem", "in a job of Slurm ask for them"),
    ("a job that was given none", CPU, 0, None, "", "cpu", "warning", "lists none of them for this process"),
    ("a job that was given none", CUDA13, 0, "", "", "cpu", None, ""),
    ("a driver that was updated without a reboot", CUDA13, 0, None, "", "cpu", "problem", "reboot"),
    ("a driver that was updated without a reboot", CPU, 0, None, "", "cpu", "warning", "Driver/library version mismatch"),
    ("a card without a driver", CUDA13, 0, None, "", "cpu", "problem", "install driver 580 or newer, and load it"),
    ("a card without a driver", CPU, 0, None, "", "cpu", "warning", "no driver of NVIDIA is loaded"),
]  # fmt: skip


def facts_of(machine: str, build: TorchBuild, usable: int, visible: str | None, said: str) -> MachineFacts:
    driver = MACHINES[machine]
    return MachineFacts(driver.devices, usable, (H100,) * usable, said, build, driver, visible)


@pytest.mark.parametrize(("machine", "build", "usable", "visible", "said", "name", "level", "words"), TABLE)
def test_what_the_machine_is_and_what_is_said(monkeypatch, machine, build, usable, visible, said, name, level, words):
    monkeypatch.setattr(devices, "inspect_machine", lambda: facts_of(machine, build, usable, visible, said))
    found = devices.detect_machine()
    assert found.name == name
    assert (found.trouble.level if found.trouble else None) == level
    if found.trouble:
        assert words in f"{found.trouble.what}\n{found.trouble.remedy}"
        assert found.trouble.remedy and "\n" not in found.trouble.what
        assert found.reason == found.trouble.what, "what a CPU run says of itself"


def test_a_problem_says_how_to_run_on_the_cpu_nonetheless():
    for machine, build, usable, visible, said, _, level, _ in TABLE:
        if level == "problem":
            assert "hardware=cpu" in devices.find_trouble(facts_of(machine, build, usable, visible, said)).remedy


@pytest.mark.parametrize(("cuda", "needed"), [("13.0", "580"), ("12.6", "525.60.13"), ("14.0", ""), (None, "")])
def test_the_driver_that_a_build_needs(cuda, needed):
    assert devices.needed_driver(cuda) == needed


def test_the_gpu_lock_is_in_the_table():
    """torch of the lock is built for the CUDA whose toolkit stands beside it."""
    lines = (ROOT / "requirements/gpu.lock").read_text().splitlines()
    toolkit = next(line.partition("==")[2] for line in lines if line.startswith("cuda-toolkit=="))
    assert devices.needed_driver(toolkit)
