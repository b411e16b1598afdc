"""What a value of `base_model=` means: an option of conf/base_model, a folder, or a model of the hub."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from posttrain_verl import paths

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
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for option in paths.names("base_model"):
        file = paths.find_option("base_model", option)
        node = yaml.load(file.read_text(encoding="utf-8"), Loader=loader) if file else None
        if isinstance(node, dict) and node.get("path") == value:
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


def is_offline() -> bool:
    """Whether the hub must not be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")


def fetch_config(name: str) -> dict[str, Any] | None:
    """The config.json of a model of the hub: that of the hub's cache, else fetched into it. None where neither has it."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    file: Any = try_to_load_from_cache(name, "config.json")
    if not isinstance(file, str):
        if is_offline():
            return None
        try:
            file = hf_hub_download(name, "config.json", etag_timeout=3.0)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError):  # the check of the model says what is wrong with it
            return None
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None
