"""What a sandbox can show to programs and tests besides the standard library: packages of this environment, read-only.

Only what is named here, and only when a reward asks for it: the tests of EvalPlus compare with numpy.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

FOLDERS = {"numpy": ("numpy", "numpy.libs")}  # each package, and what its wheel puts beside it
INSIDE = "/packages"
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}  # a program's matrix product takes one core, as the program does


def chosen(names: Iterable[str]) -> tuple[str, ...]:
    """The names in order, each once. Raises ValueError for one that no sandbox shows."""
    wanted = tuple(sorted(set(names)))
    if unknown := [name for name in wanted if name not in FOLDERS]:
        raise ValueError(f"packages={unknown}: a sandbox shows only {', '.join(FOLDERS)}")
    return wanted


def site(name: str) -> Path:
    """The folder that holds the package. Raises ModuleNotFoundError when it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} is not installed", name=name)
    return Path(spec.origin).parents[1]


def mounts(names: Iterable[str]) -> list[str]:
    """bubblewrap's options that show the packages below INSIDE."""
    options = []
    for name in names:
        for folder in FOLDERS[name]:
            if (source := site(name) / folder).is_dir():
                options += ["--ro-bind", str(source), f"{INSIDE}/{folder}"]
    return options
