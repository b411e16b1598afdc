"""From a name or a path to a Hugging Face folder; embedded models are built into the cache once."""

import importlib
import shutil
import tempfile
import time
from pathlib import Path

from filelock import FileLock

from posttrain_verl.paths import cache_dir, in_cache
from posttrain_verl.terminal.console import hidden_bars, log
from posttrain_verl.terminal.problem import InputError, Problem

# name -> "module:function"; function(folder) writes the checkpoint into the empty folder.
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


def has_random_weights(name_or_path: str) -> bool:
    """Whether it is an embedded model that nobody trained."""
    return ".random_" in EMBEDDED.get(name_or_path, "")


def _cache_folder(name: str) -> Path:
    return cache_dir() / "base_models" / f"{name}-{_FORMAT}"


def built_folder(name: str) -> Path | None:
    """The folder of an embedded model, if it was built already."""
    folder = _cache_folder(name)
    return folder if folder.is_dir() else None


def ensure_model(name_or_path: str | Path) -> Path:
    """The Hugging Face folder of an embedded model (built if the cache lacks it) or of a model on disk.

    Safe when several processes ask at once: one builds, the others wait; the folder appears by rename, complete or
    not at all.

    Raises:
        InputError: neither an embedded name nor a folder that holds a config and weights.
    """
    name = str(name_or_path)
    if not is_embedded(name):
        return _check_folder(Path(name).expanduser())
    folder = _cache_folder(name)
    if folder.is_dir():
        return folder
    in_cache("base_models")
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _build_model(name, folder)
    return folder


def _build_model(name: str, folder: Path) -> None:
    log.info(f"building the base model {name} in {folder}")
    started = time.monotonic()
    module, function = EMBEDDED[name].split(":")
    try:
        builder = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:  # the environment for GPUs lacks what only smollm2_135m needs
        problem = Problem(f"the Python package {error.name} is not installed", f"pip install {error.name}")
        raise InputError(f"base model '{name}' cannot be built", [problem]) from None
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with hidden_bars():
            builder(unfinished)
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    log.info(f"built {name} in {time.monotonic() - started:.1f} s")


def _check_folder(folder: Path) -> Path:
    if not folder.is_dir():
        what = f"{folder} is neither an embedded model nor a folder"
    elif not (folder / "config.json").is_file():
        what = f"{folder} holds no config.json"
    elif not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        what = f"{folder} holds no weights (*.safetensors, pytorch_model*.bin)"
    else:
        return folder.resolve()
    remedy = f"name an embedded model ({', '.join(EMBEDDED)}) or a folder written by save_pretrained"
    raise InputError(f"base model '{folder}' cannot be used", [Problem(what, remedy)])
