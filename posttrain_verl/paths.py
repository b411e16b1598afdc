"""Where things lie: our conf and recipes (checkout or wheel), VeRL's config tree, and the cache."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs

_PACKAGE = Path(__file__).resolve().parent


def _shipped(name: str) -> Path:
    """`name` beside the package in a checkout, inside it in an installed wheel.

    A checkout is known by its pyproject.toml: a `conf/` that happens to lie in site-packages is not ours.
    """
    checkout = _PACKAGE.parent
    root = checkout if (checkout / "pyproject.toml").is_file() else _PACKAGE
    folder = root / name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is missing: the installation of posttrain_verl is incomplete; install it again"
        )
    return folder


def conf_dir() -> Path:
    """The folder of our Hydra groups."""
    return _shipped("conf")


def recipes_dir() -> Path:
    """The folder of the recipes that come with the package."""
    return _shipped("recipes")


def cache_dir() -> Path:
    """The folder for what can be built again; `POSTTRAIN_CACHE` moves it. Not created here."""
    chosen = os.environ.get("POSTTRAIN_CACHE")
    return Path(chosen).expanduser().resolve() if chosen else Path(platformdirs.user_cache_dir("posttrain_verl"))


def absolute(files: Any) -> Any:
    """One path or a list of them, absolute; null and addresses such as s3://... stay."""
    if isinstance(files, Sequence) and not isinstance(files, str):
        return [absolute(file) for file in files]
    if not isinstance(files, str) or "://" in files:
        return files
    return str(Path(files).expanduser().absolute())


def verl_config_dir() -> Path:
    """VeRL's own Hydra tree, `verl/trainer/config`.

    Found without importing VeRL, which would import torch and Ray first (about ten seconds).

    Raises:
        ModuleNotFoundError: VeRL is not installed.
    """
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("verl is not installed in this environment; run `make setup`", name="verl")
    return Path(spec.origin).parent / "trainer" / "config"
