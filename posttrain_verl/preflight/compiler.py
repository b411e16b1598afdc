"""Triton compiles C when its first kernel runs, with this Python's own headers: on a machine without them a worker dies then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from posttrain_verl.compose import Composed
from posttrain_verl.preflight import machine
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.problem import Problem, warning


def check(composed: Composed) -> Iterator[Problem]:
    """Whether a C compiler finds Python.h. SFT without compiled parts needs neither, and what Triton built before serves again:
    then it is a warning."""
    if composed.posttrain.hardware.name == "cpu":
        return
    machine.require_here(composed)
    if find_spec("triton") is None:
        raise CannotTell("there is no Triton here")
    if (found := missing()) is None:
        return
    serves = composed.stage == "sft" or _was_built()
    yield warning(found.what, found.remedy) if serves else found


def missing() -> Problem | None:
    """What keeps Triton from compiling, tried as it does (triton.runtime.build): the compiler, or the header."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return Problem(
            "Triton needs a C compiler, and there is no gcc or clang", "install gcc, or name one: CC=/path/to/cc"
        )
    command = [compiler, "-E", "-x", "c", f"-I{header_folder()}", "-"]
    try:
        tried = subprocess.run(command, input="#include <Python.h>\n", capture_output=True, text=True, check=False)
    except OSError as error:
        return Problem(f"Triton needs a C compiler, and CC={compiler} does not start: {error.strerror}", "unset CC")
    if tried.returncode == 0:
        return None
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    remedy = (f"install the headers (apt-get install python{version}-dev, dnf install python{version}-devel), or make .venv "
              "with a Python of uv, conda or pyenv, which has them")  # fmt: skip
    return Problem(f"Triton compiles C against Python.h, and {compiler} does not find it in {header_folder()}", remedy)


def header_folder() -> str:
    """Where this Python keeps its headers; Debian's scheme for local packages names a folder that does not hold them."""
    scheme = sysconfig.get_default_scheme()
    return sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)


def _was_built() -> bool:
    """Whether Triton's cache has what it compiles first, for this Python."""
    cache = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")
    return any(cache.glob(f"*/cuda_utils*{sysconfig.get_config_var('EXT_SUFFIX')}"))
