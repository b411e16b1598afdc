"""What a machine without network needs beside torch and this checkout: `python -m posttrain_verl.first_gpu_hour.carry`.

    python=3.12         the machine's Python; by default the one that runs this
    carry=gpu_carry     the folder, made anew

The versions are those of requirements/gpu.lock. Ray, pandas and the like are not in it: an engine in one process never calls
them (posttrain_verl/verl/placeholders.py). `make gpu-carry` runs this; it needs the network.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from posttrain_verl import options
from posttrain_verl.problem import InputError, Problem, WorkFailed, exit_code

LOCK = Path(__file__).resolve().parents[2] / "requirements" / "gpu.lock"
LIMIT_MB = 60
# What the short mode imports and torch does not bring; tests/first_gpu_hour/test_carried.py runs it with nothing else.
PACKAGES = (
    "accelerate", "antlr4-python3-runtime", "anyio", "certifi", "click", "cloudpickle", "codetiming", "h11", "httpcore", "httpx",
    "huggingface_hub", "hydra-core", "idna", "numpy", "nvidia-ml-py", "omegaconf", "orjson", "packaging", "peft", "platformdirs",
    "psutil", "pyvers", "PyYAML", "regex", "safetensors", "tensordict", "tokenizers", "tqdm", "transformers", "verl", "wrapt",
)  # fmt: skip
SOURCE_ONLY = ("antlr4-python3-runtime",)  # published as source alone, in Python alone
PLATFORMS = ["manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64",
             *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 29))]  # fmt: skip


def build(folder: Path, python: str) -> float:
    """Fill `folder` with wheels for that Python on Linux x86-64; returns their size in MB (10^6)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pinned = dict(line.split("==") for line in LOCK.read_text().splitlines() if "==" in line)
    wheels = [f"{name}=={pinned[name]}" for name in PACKAGES if name not in SOURCE_ONLY]
    target = ["--implementation=cp", f"--python-version={python}", *(f"--platform={name}" for name in PLATFORMS)]
    _pip("download", "--only-binary=:all:", *target, f"--dest={folder}", *wheels)
    _pip("wheel", f"--wheel-dir={folder}", *(f"{name}=={pinned[name]}" for name in SOURCE_ONLY))
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def _pip(verb: str, *words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check", "--no-deps", *words],
                          capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise WorkFailed(f"pip {verb} failed; it needs the network:\n{done.stderr.strip()}")


def main(words: list[str]) -> int:
    """Build the folder that the words ask for. Raises InputError, WorkFailed."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    given, problems = options.read("first_gpu_hour.carry", words, {"python": running, "carry": "gpu_carry"})
    folder = Path(given["carry"])
    if not LOCK.is_file():
        problems.append(Problem(f"{LOCK} is not there", "run this in a checkout: an installed package has no locks"))
    if folder.is_dir() and any(file.suffix != ".whl" for file in folder.iterdir()):
        problems.append(Problem(f"carry={folder} holds more than wheels", "name a folder that may be made anew"))
    if problems:
        raise InputError("nothing to carry", problems)
    size = build(folder, given["python"])
    print(f"{folder}: {len(list(folder.iterdir()))} wheels for Python {given['python']}, {size:.1f} MB")
    if size > LIMIT_MB:
        raise WorkFailed(f"{folder} has {size:.1f} MB, more than the {LIMIT_MB} that a machine is sure to take")
    return 0


if __name__ == "__main__":
    command_line = options.parser("first_gpu_hour.carry", __doc__).parse_args().words
    sys.exit(exit_code(lambda: main(command_line)))
