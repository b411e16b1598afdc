"""Start the short mode from a carried folder: `python3 -m posttrain_verl.first_gpu_hour.carried [carry=gpu_carry] [key=value]`.

It needs Python with torch, this checkout and the folder that `make gpu-carry` filled: no network, and nothing is installed.
The other words go to `python -m posttrain_verl.first_gpu_hour`. Nothing is imported here that Python does not bring.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from posttrain_verl.problem import InputError, Problem, exit_code

CHECKOUT = Path(__file__).resolve().parents[2]
# The machine's own, where it has one: what it has compiled was compiled against that.
MACHINES_OWN = ("numpy",)


def unpack(folder: Path, place: Path) -> None:
    """Put the wheels of `folder` where Python can import them. Raises InputError."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise _no_hour(f"there are no wheels in {folder}", "make gpu-carry, on a machine with network")
    wanted = [wheel for wheel in wheels if not _is_machines_own(wheel)]
    minor = sys.version_info.minor
    if foreign := [wheel.name for wheel in wanted if not _fits(wheel, f"cp3{minor}")]:
        raise _no_hour(
            f"{folder} is for another Python than 3.{minor}: {foreign[0]}", f"make gpu-carry CARRY_PYTHON=3.{minor}"
        )
    for wheel in wanted:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place)


def _no_hour(what: str, remedy: str) -> InputError:
    return InputError("no first hour", [Problem(what, remedy)])


def _is_machines_own(wheel: Path) -> bool:
    name = wheel.name.partition("-")[0]
    return name in MACHINES_OWN and importlib.util.find_spec(name) is not None


def _fits(wheel: Path, running: str) -> bool:
    """Whether its tags name this Python, any Python 3, or the stable interface of an older one."""
    python, interface = wheel.stem.split("-")[-3:-1]
    return python in (running, "py3", "py2.py3") or interface == "abi3"


def start(words: Sequence[str]) -> int:
    """Run the short mode with the carried packages in front; returns its exit code. Raises InputError."""
    given = [word.removeprefix("carry=") for word in words if word.startswith("carry=")]
    others = [word for word in words if not word.startswith("carry=")]
    folder = Path(given[-1]) if given else CHECKOUT / "gpu_carry"
    with tempfile.TemporaryDirectory(prefix="gpu_carry") as place:
        unpack(folder, Path(place))
        variables = os.environ | {"PYTHONPATH": os.pathsep.join([place, str(CHECKOUT)]), "PYTHONNOUSERSITE": "1"}
        command = [sys.executable, "-m", "posttrain_verl.first_gpu_hour", "mode=short", *others]
        return subprocess.run(command, env=variables, check=False).returncode


if __name__ == "__main__":
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit(0)
    sys.exit(exit_code(lambda: start(sys.argv[1:])))
