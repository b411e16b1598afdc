"""Where things lie: our conf and recipes (checkout or wheel), VeRL's config tree, and the cache."""

import importlib.util
import os
import secrets
import shutil
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import platformdirs

from posttrain_verl.terminal.problem import InputError, Problem

# Groups of conf/ that a launch chooses from, and the recipes.
OUR_GROUPS = ("recipe", "base_model", "mix", "hardware", "cluster", "watch")
YAML_SUFFIXES = (".yaml", ".yml")
PIPELINE_FILE = "pipeline.json"  # in the folder of a pipeline: its stages, in order, as they stand

_PACKAGE = Path(__file__).resolve().parent


def _shipped_folder(name: str) -> Path:
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
    return _shipped_folder("conf")


def recipes_dir() -> Path:
    """The folder of the recipes that come with the package."""
    return _shipped_folder("recipes")


def own_folder(group: str) -> Path:
    """Where the user's recipes, or options of a group of conf/, lie: `./recipes` or `./conf/<group>`."""
    return Path.cwd() / ("recipes" if group == "recipe" else f"conf/{group}")


def shipped_folder(group: str) -> Path:
    """Where the recipes, or the options of a group of conf/, lie that come with the package."""
    return recipes_dir() if group == "recipe" else conf_dir() / group


def names(group: str) -> list[str]:
    """The names of the recipes, or of the options of a group of conf/, sorted."""
    return sorted({file.stem for file in [*_own_files(group), *shipped_folder(group).glob("*.yaml")]})


def _own_files(group: str) -> list[Path]:
    """The user's own files of a group; of two with one name, the one that ends in .yaml comes last."""
    return [file for suffix in reversed(YAML_SUFFIXES) for file in own_folder(group).glob(f"*{suffix}")]


def find_option(group: str, name: str) -> Path | None:
    """The file that `name` means in a group: a yaml file by its path, or a name of the current folder or of the package.

    The current folder wins. But a file of a group that takes the place of a shipped one must say that it is ours, because many
    projects have a conf/cluster/local.yaml.
    """
    given = Path(name).expanduser()
    if given.suffix in YAML_SUFFIXES:
        return given.absolute() if given.is_file() else None
    if "/" in name:
        return None
    own = {file.stem: file for file in _own_files(group)}.get(name)
    shipped = shipped_folder(group) / f"{name}.yaml"
    if own and (group in ("recipe", "pipeline") or not shipped.is_file() or has_package_line(own, group)):
        return own
    return shipped if shipped.is_file() else None


def own_options() -> dict[tuple[str, str], Path]:
    """The options of our groups that the current folder adds or replaces, by group and name; not its recipes."""
    files = [(group, file) for group in OUR_GROUPS if group != "recipe" for file in _own_files(group)]
    return {(group, file.stem): file for group, file in files
            if not is_shipped(group, file) and find_option(group, file.stem) == file}  # fmt: skip


def is_shipped(group: str, file: Path) -> bool:
    """Whether a file is one of those that come with the package."""
    return file.parent == shipped_folder(group)


def has_package_line(file: Path, group: str) -> bool:
    """Whether the file begins with Hydra's line that mounts it at the node of the group."""
    return file.read_text(encoding="utf-8", errors="replace").startswith(f"# @package posttrain.{group}\n")


def run_folders(home: Path) -> list[Path]:
    """The folders of the runs below a folder of runs, those of its pipelines included."""
    patterns = ("*/*/config.yaml", "pipeline/*/*/runs/*/*/config.yaml")
    return [config.parent for pattern in patterns for config in home.glob(pattern)]


def closed_runs(home: Path) -> list[Path]:
    """The folders below a folder of runs that this user cannot read: of whole recipes, and of single runs."""
    recipes = [each for each in home.glob("*") if each.is_dir()]
    runs = [
        each for recipe in recipes if os.access(recipe, os.R_OK | os.X_OK) for each in recipe.iterdir() if each.is_dir()
    ]
    closed = [each for each in (*recipes, *runs) if not os.access(each, os.R_OK | os.X_OK)]
    named = [each / name for each in runs if each not in closed for name in ("config.yaml", "status.json")]
    return closed + [each.parent for each in named if each.exists() and not os.access(each, os.R_OK)]


def copy_files(source: Path, target: Path, skip: Container[str] = ()) -> None:
    """Copy the files of a folder, and of those in it, into another, with the modes of new files and folders.

    `shutil.copytree` gives the target the mode of the source, as 0700 of a temporary folder. What is neither a file nor a
    folder, e.g. a socket, is left out.
    """
    target.mkdir(parents=True, exist_ok=True)
    for each in source.iterdir():
        if each.name in skip:
            continue
        if each.is_dir():
            copy_files(each, target / each.name, skip)
        elif each.is_file():
            shutil.copyfile(each, target / each.name)


def cache_dir() -> Path:
    """The folder for what can be built again; `POSTTRAIN_CACHE` moves it. Not created here.

    Raises:
        InputError: this user has no home.
    """
    chosen = os.environ.get("POSTTRAIN_CACHE")
    try:
        return Path(chosen).expanduser().resolve() if chosen else Path(platformdirs.user_cache_dir("posttrain_verl"))
    except RuntimeError as error:
        raise _no_cache_error(str(error)) from None


def in_cache(name: str) -> Path:
    """A folder of the cache, made if it is not there.

    Raises:
        InputError: it cannot be made, as where a container's user has `/` for a home.
    """
    folder = cache_dir() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_cache_error(str(error)) from None
    return folder


def _no_cache_error(what: str) -> InputError:
    remedy = "set POSTTRAIN_CACHE to a folder of your own"
    return InputError("there is no folder for the cache", [Problem(what, remedy)])


def absolute_paths(files: Any) -> Any:
    """One path or a list of them, absolute; null and addresses such as s3://... stay."""
    if isinstance(files, Sequence) and not isinstance(files, str):
        return [absolute_paths(file) for file in files]
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


def beside(path: Path, ending: str) -> Path:
    """The file beside `path` that has its name, without `.json`, and `ending`. In lr0.1 the dot begins no suffix."""
    return path.with_name(path.name.removesuffix(".json") + ending)


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or nothing: a reader never sees half of it, whoever else writes it at the same moment."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
