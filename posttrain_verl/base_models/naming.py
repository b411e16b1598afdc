"""What a value of `base_model=` means: an option of conf/base_model, a folder, or a model of the hub."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from posttrain_verl import paths
from posttrain_verl.base_models import cache
from posttrain_verl.terminal.problem import InputError, Problem, one_of

TITLE = "no such model"
RUN_PREFIX = "run:"  # of a value that means what a run trained; `recipe_verbs` and `evaluate` find it


@dataclass(frozen=True)
class ModelName:
    """An option of conf/base_model; `path` is the folder, absolute, or the id of the hub where the option is `folder`."""

    option: str
    path: str | None = None


def read_name(value: str) -> ModelName:
    """What `value` means: the name of an option, a folder, or `Organisation/Model` of the hub.

    An id that an option has for its path is that option. What has a slash and is not an id is a folder that is not there.
    """
    folder = Path(value).expanduser()
    if value in paths.names("base_model") or value.endswith(paths.YAML_SUFFIXES) or not value:
        return ModelName(value)
    if folder.is_dir() or ("/" in value and not is_hub_id(value)):
        return ModelName("folder", str(folder.absolute()))
    if "/" not in value:
        return ModelName(value)
    for option in paths.names("base_model"):
        file = paths.find_option("base_model", option)
        if file and (_read_option(file) or {}).get("path") == value:
            return ModelName(option)
    return ModelName("folder", value)


def is_hub_id(name: str) -> bool:
    """Whether a name can be `Organisation/Model` of the hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not name.startswith((".", "~"))


def find_model(name: str) -> str:
    """The folder of the model that `name` means, an embedded one being built, or its id of the hub.

    Raises:
        InputError: there is no such model, or this machine neither has the model of the hub nor reaches it there.
    """
    named = read_name(name)
    path, file = named.path, paths.find_option("base_model", named.option)
    if path is None and file is not None:
        path = (_read_option(file) or {}).get("path")
    if path in (None, "???"):
        what = f"{name} is neither a folder nor a model of conf/base_model or of the hub (Organisation/Model)"
        raise InputError(TITLE, [Problem(what, one_of(name, paths.names("base_model")))])
    path = str(path)
    if Path(path).is_dir() or not is_hub_id(path):
        return str(cache.ensure_model(path))
    from httpx import HTTPError, TimeoutException

    try:
        _config_file(path)
    except TimeoutException:  # a slow network may still have it
        pass
    except (HTTPError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        what = f"{path} is not in the hub's cache of this machine, and cannot be fetched: {reason}"
        remedy = "check its name and the network; a gated model needs `hf auth login`; or name a folder"
        raise InputError(TITLE, [Problem(what, remedy)]) from error
    return path


def _read_option(file: Path) -> dict[str, Any] | None:
    node = yaml.load(
        file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )  # faster than OmegaConf: all options are read for an id of the hub
    return node if isinstance(node, dict) else None


def is_offline() -> bool:
    """Whether the hub must not be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")


def fetch_config(name: str) -> dict[str, Any] | None:
    """The config.json of a model of the hub: that of the hub's cache, else fetched into it. None where neither has it."""
    from httpx import HTTPError

    try:
        config = json.loads(Path(_config_file(name)).read_text(encoding="utf-8"))
    except (HTTPError, OSError, ValueError):  # the check of the model says what is wrong with it
        return None
    return config if isinstance(config, dict) else None


def _config_file(name: str) -> str:
    """The config.json of a model of the hub, in the hub's cache. Raises httpx.HTTPError or OSError where it cannot be had."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    file: Any = try_to_load_from_cache(name, "config.json")
    if isinstance(file, str):
        return file
    if is_offline():
        raise OSError("HF_HUB_OFFLINE is set")
    get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=3.0)  # the download would try six times, for 23 s
    return str(hf_hub_download(name, "config.json"))
