"""The folder that a machine without network needs beside torch and this checkout. `make gpu-carry` fills it from the network.

The versions are those of requirements/gpu.lock. Ray, pandas and the like are not in it: an engine in one process never calls
them (posttrain_verl/verl/single_worker.py).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.command_line import OutFolder, Verb, key
from posttrain_verl.terminal.problem import Problem, WorkFailed

LOCK = Path(__file__).resolve().parents[2] / "requirements" / "gpu.lock"
LIMIT_MB = 60
# What the short mode imports and torch does not bring; tests/first_gpu_hour/test_carried.py runs it with nothing else.
PACKAGES = (
    "accelerate", "annotated-types", "antlr4-python3-runtime", "anyio", "certifi", "click", "cloudpickle", "codetiming", "h11",
    "httpcore", "httpx", "huggingface_hub", "hydra-core", "idna", "numpy", "nvidia-ml-py", "omegaconf", "orjson", "packaging",
    "peft", "platformdirs", "psutil", "pydantic", "pydantic_core", "pyvers", "PyYAML", "regex", "safetensors", "tensordict",
    "tokenizers", "tqdm", "transformers", "typing-inspection", "verl", "wrapt",
)  # fmt: skip
SOURCE_ONLY = ("antlr4-python3-runtime",)  # published as source alone, in Python alone
PLATFORMS = ["manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64",
             *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 29))]  # fmt: skip


def build_wheels(folder: Path, python: str) -> float:
    """Fill `folder` with wheels for that Python on Linux x86-64; returns their size in MB (10^6)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pinned = dict(line.split("==") for line in LOCK.read_text().splitlines() if "==" in line)
    wheels = [f"{name}=={pinned[name]}" for name in PACKAGES if name not in SOURCE_ONLY]
    target = ["--implementation=cp", f"--python-version={python}", *(f"--platform={name}" for name in PLATFORMS)]
    _run_pip("download", "--only-binary=:all:", *target, f"--dest={folder}", *wheels)
    _run_pip("wheel", f"--wheel-dir={folder}", *(f"{name}=={pinned[name]}" for name in SOURCE_ONLY))
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def _run_pip(verb: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check", "--no-deps", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkFailed(f"pip {verb} failed; it needs the network:\n{done.stderr.strip()}")


class Carry(Verb):
    """Fill a folder with the wheels that the short mode needs beside torch on a machine without network."""

    EXAMPLE = "python=3.12"
    TITLE = "nothing to carry"
    EXITS = "0 done, 1 the wheels cannot be had, 2 the input is wrong"

    python: str = key(f"{sys.version_info.major}.{sys.version_info.minor}", "the machine's Python")
    carry: OutFolder = key("gpu_carry", "the folder, made anew")

    @classmethod
    def name(cls) -> str:
        return "first_gpu_hour.carry"

    def problems(self) -> Iterator[Problem]:
        if not LOCK.is_file():
            yield Problem(f"{LOCK} is not there", "run this in a checkout: an installed package has no locks")
        if Path(self.carry).is_dir() and any(file.suffix != ".whl" for file in Path(self.carry).iterdir()):
            yield Problem(f"carry={self.carry} holds more than wheels", "name a folder that may be made anew")


def run(asked: Carry) -> int:
    folder = Path(asked.carry)
    size = build_wheels(folder, asked.python)
    print(f"{folder}: {len(list(folder.iterdir()))} wheels for Python {asked.python}, {size:.1f} MB")
    if size > LIMIT_MB:
        raise WorkFailed(f"{folder} has {size:.1f} MB, more than the {LIMIT_MB} that a machine is sure to take")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(Carry, run))
