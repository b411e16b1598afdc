"""The environment of requirements/gpu.lock on a machine without a GPU: 11 GB, installed once a session as `make setup` does it.

POSTTRAIN_GPU_ENVIRONMENT names one that is there already, with posttrain_verl installed into it from a checkout.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
INSTALL_SECONDS, SECONDS = 2 * 3600, 900


@pytest.fixture(scope="session")
def gpu_python(tmp_path_factory) -> Iterator[Path]:
    """The Python of the environment."""
    if given := os.environ.get("POSTTRAIN_GPU_ENVIRONMENT"):
        yield Path(given, "bin", "python")
        return
    folder = tmp_path_factory.mktemp("gpu") / "environment"
    command = ["bash", ROOT / "requirements/setup.sh", sys._base_executable, ROOT / "requirements/gpu.lock", folder]
    subprocess.run(command, check=True, timeout=INSTALL_SECONDS)
    yield folder / "bin" / "python"
    shutil.rmtree(folder)  # pytest keeps three sessions, and this is 11 GB


@pytest.fixture(scope="session")
def libcuda(tmp_path_factory) -> Path:
    """A folder with a driver's library that finds no device."""
    folder = tmp_path_factory.mktemp("driver")
    name = "libcuda.so.1"
    command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, HERE / "libcuda.c"]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="session")
def variables(tmp_path_factory) -> dict[str, str]:
    """Of every process there: our code is the checkout's, nothing is downloaded, and caches start empty."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": cache}


@pytest.fixture(scope="session")
def answer(gpu_python, libcuda, variables, tmp_path_factory) -> Callable[..., dict]:
    """Runs a script of this folder there, beside the driver, and returns what it wrote into the file that it is given first."""

    def run(script: str, *arguments: str | Path, cwd: Path = ROOT, **more: str) -> dict:
        out = tmp_path_factory.mktemp("answer") / "out.json"
        command = [gpu_python, HERE / script, out, *arguments]
        environment = variables | {"LD_LIBRARY_PATH": str(libcuda)} | more
        ended = subprocess.run(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, timeout=SECONDS)  # fmt: skip
        assert ended.returncode == 0, ended.stdout[-3000:]
        return json.loads(out.read_text())

    return run
