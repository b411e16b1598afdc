"""From a name or a path to a Hugging Face folder; embedded models are built into the cache once."""

import importlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from filelock import FileLock

from posttrain_verl.paths import cache_dir, in_cache
from posttrain_verl.problem import InputError, Problem

Report = Callable[[str], object]

# name -> "module:function"; function(folder, report) writes the checkpoint into the empty folder.
EMBEDDED = {
    "tiny": "posttrain_verl.base_models.random_qwen2:write_tiny",
    "tiny_untied": "posttrain_verl.base_models.random_qwen2:write_tiny_untied",
    "nano_2m": "posttrain_verl.base_models.random_qwen2:write_nano_2m",
    "smollm2_135m": "posttrain_verl.base_models.smollm2:write",
}

# Part of the folder's name: raise it when a builder changes what it writes, and every cache builds anew.
_FORMAT = 1


def is_embedded(name_or_path: str) -> bool:
    return name_or_path in EMBEDDED


def built(name: str) -> Path | None:
    """The folder of an embedded model, if it was built already."""
    folder = _place(name)
    return folder if folder.is_dir() else None


def _place(name: str) -> Path:
    return cache_dir() / "base_models" / f"{name}-{_FORMAT}"


def ensure(name_or_path: str | Path, report: Report = print) -> Path:
    """The Hugging Face folder of an embedded model (built if the cache lacks it) or of a model on disk.

    Safe when several processes ask at once: one builds, the others wait; the folder appears by rename, complete or
    not at all. `report` receives one line of progress at a time.

    Raises:
        InputError: neither an embedded name nor a folder that holds a config and weights.
    """
    name = str(name_or_path)
    if not is_embedded(name):
        return _checked_folder(name)
    folder = _place(name)
    if folder.is_dir():
        return folder
    in_cache("base_models")
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _build(name, folder, report)
    return folder


def _build(name: str, folder: Path, report: Report) -> None:
    report(f"building the base model {name} in {folder}")
    started = time.monotonic()
    module, function = EMBEDDED[name].split(":")
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        getattr(_imported(module, name), function)(unfinished, report)
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    report(f"built {name} in {time.monotonic() - started:.1f} s")


def _imported(module: str, name: str) -> ModuleType:
    """Raises InputError where a package is missing: the environment for GPUs lacks what only smollm2_135m needs."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        problem = Problem(f"the Python package {error.name} is not installed", f"pip install {error.name}")
        raise InputError(f"base model '{name}' cannot be built", [problem]) from None


def _checked_folder(name: str) -> Path:
    folder = Path(name).expanduser()
    remedy = f"name an embedded model ({', '.join(EMBEDDED)}) or a folder written by save_pretrained"
    if not folder.is_dir():
        problem = Problem(f"{name} is neither an embedded model nor a folder", remedy)
    elif not (folder / "config.json").is_file():
        problem = Problem(f"{folder} holds no config.json", remedy)
    elif not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        problem = Problem(f"{folder} holds no weights (*.safetensors, pytorch_model*.bin)", remedy)
    else:
        return folder.resolve()
    raise InputError(f"base model '{name}' cannot be used", [problem])
