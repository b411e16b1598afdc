"""Start the short mode from a carried folder: `python3 -m posttrain_verl.first_gpu_hour.carried [carry=gpu_carry] [key=value]`.

It needs Python with torch, this checkout and the folder that `make gpu-carry` filled: no network, and nothing is installed.
The other arguments go to `python -m posttrain_verl.first_gpu_hour`. This module imports only what Python brings.
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

from posttrain_verl.terminal.problem import InputError, Problem, exit_code

CHECKOUT = Path(__file__).resolve().parents[2]
# The machine's own, where it has one: what it has compiled was compiled against that.
MACHINE_PACKAGES = ("numpy",)


def unpack_wheels(folder: Path, place: Path) -> None:
    """Put the wheels of `folder` where Python can import them. Raises InputError."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise _no_hour(f"there are no wheels in {folder}", "make gpu-carry, on a machine with network")
    minor, wanted = sys.version_info.minor, []
    for wheel in wheels:
        name = wheel.name.partition("-")[0]
        if name in MACHINE_PACKAGES and importlib.util.find_spec(name) is not None:
            continue
        python, interface = wheel.stem.split("-")[-3:-1]
        # The tags name this Python, any Python 3, or the stable interface of an older one.
        if python not in (f"cp3{minor}", "py3", "py2.py3") and interface != "abi3":
            what = f"{folder} is for another Python than 3.{minor}: {wheel.name}"
            raise _no_hour(what, f"make gpu-carry CARRY_PYTHON=3.{minor}")
        wanted.append(wheel)
    for wheel in wanted:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place)


def _no_hour(what: str, remedy: str) -> InputError:
    return InputError("no first hour", [Problem(what, remedy)])


def start_short_mode(arguments: Sequence[str]) -> int:
    """Run the short mode with the carried packages in front; returns its exit code. Raises InputError."""
    given = [argument.removeprefix("carry=") for argument in arguments if argument.startswith("carry=")]
    others = [argument for argument in arguments if not argument.startswith("carry=")]
    folder = Path(given[-1]) if given else CHECKOUT / "gpu_carry"
    with tempfile.TemporaryDirectory(prefix="gpu_carry") as place:
        unpack_wheels(folder, Path(place))
        variables = os.environ | {"PYTHONPATH": os.pathsep.join([place, str(CHECKOUT)]), "PYTHONNOUSERSITE": "1"}
        command = [sys.executable, "-m", "posttrain_verl.first_gpu_hour", "mode=short", *others]
        return subprocess.run(command, env=variables, check=False).returncode


if __name__ == "__main__":
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit(0)
    sys.exit(exit_code(lambda: start_short_mode(sys.argv[1:])))
