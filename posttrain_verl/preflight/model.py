"""The model: its folder has config, weights and tokenizer, or the hub can be asked for it.

An embedded model that is not built yet is no problem; launch builds it.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from posttrain_verl.base_models import built, is_embedded
from posttrain_verl.compose import Composed
from posttrain_verl.overrides import names
from posttrain_verl.preflight import machine
from posttrain_verl.problem import Problem, one_of

HUB_SECONDS = 2.0
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def check(composed: Composed) -> list[Problem]:
    """Problems of every model folder that the launch names."""
    found = []
    for path in dict.fromkeys(composed.models):
        if _is_folder_path(path):
            found += check_folder(Path(path).expanduser())
        elif not is_embedded(path):
            found += _check_hub(path, composed)
    return found


def folder_of(path: str) -> Path | None:
    """The folder of a model on this machine: its own, the one built in the cache, or a snapshot of the hub."""
    if is_embedded(path):
        return built(path)
    if _is_folder_path(path):
        return Path(path).expanduser() if Path(path).expanduser().is_dir() else None
    from huggingface_hub import try_to_load_from_cache

    file = _repository(path) and try_to_load_from_cache(path, "config.json")
    return Path(file).parent if isinstance(file, str) else None


def facts(composed: Composed) -> dict[str, Any]:
    """The model's config.json, or what conf/base_model says of it, under the recipe's own `override_config`."""
    return {**_described(composed), **_overridden(composed)}


def _described(composed: Composed) -> dict[str, Any]:
    folder = folder_of(composed.model)
    if folder is not None and (file := folder / "config.json").is_file():
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except ValueError:
            return {}  # `check` says so
    ours = composed.posttrain.base_model
    return dict(ours.get("config") or {}) if ours.get("path") == composed.model else {}


def _overridden(composed: Composed) -> dict[str, Any]:
    owner = composed.verl if composed.stage == "sft" else composed.verl.actor_rollout_ref
    given = owner.model.get("override_config") or {}
    return dict(given.get("model_config") or given)


def size(composed: Composed) -> int | None:
    """Parameters of the trained model, where its weights are on this machine."""
    folder = folder_of(composed.model)
    return parameters(folder) if folder is not None else None


def _repository(name: str) -> bool:
    """Whether a name can be a repository of the hub: `Model` or `Organisation/Model`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _check_hub(name: str, composed: Composed) -> list[Problem]:
    """A snapshot in the cache is enough; else the hub must answer, and know the model, when it is trained here."""
    if not _repository(name):
        return [Problem(f"{name} is neither a folder nor Organisation/Model of the hub", _HUB)]
    if folder_of(name) is not None:
        return []
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        what = f"model {name} is not in the cache of the hub, and HF_HUB_OFFLINE forbids to fetch it"
        return [Problem(what, f"unset HF_HUB_OFFLINE, or first: hf download {name}")]
    if not machine.is_here(composed):
        return []
    return _ask_hub(name)


def _ask_hub(name: str) -> list[Problem]:
    import httpx
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=HUB_SECONDS)
    except GatedRepoError:
        return [
            Problem(f"model {name} is gated", f"accept its licence on the hub, then: hf auth login; hf download {name}")
        ]
    except HfHubHTTPError as error:
        status = error.response.status_code
        return [Problem(f"the hub does not give out model {name} (HTTP {status})", "check its name, and hf auth login")]
    except (httpx.HTTPError, OSError) as error:
        what = f"model {name} is not on this machine, and the hub cannot be reached ({error})"
        return [
            Problem(what, f"connect, or copy a snapshot: hf download {name} on another machine; or base_model=/folder")
        ]
    return []


def check_folder(folder: Path) -> list[Problem]:
    """Problems of one Hugging Face folder."""
    if not folder.is_dir():
        remedy = f"base_model takes a folder or a name; {one_of(folder.name, names('base_model'), 'base_model=')}\n"
        return [Problem(f"model folder {folder} does not exist", remedy + _HUB)]
    lacking = [
        f"no {name}"
        for name, there in (
            ("config.json", (folder / "config.json").is_file()),
            ("weights (*.safetensors or pytorch_model*.bin)", bool(weights(folder))),
            (f"tokenizer ({', '.join(TOKENIZERS)})", any((folder / name).is_file() for name in TOKENIZERS)),
        )
        if not there
    ]
    lacking += [f"no {shard}, which its index lists" for shard in _missing_shards(folder)]
    lacking += [
        f"an unreadable {name}" for name in ("config.json", "tokenizer_config.json") if not _is_json(folder / name)
    ]
    remedy = "give the folder that save_pretrained wrote"
    if (folder.parent / "fsdp_config.json").is_file():  # beside the shards lie config and tokenizer alone
        remedy = "the weights are in the shards beside it: python -m posttrain_verl.export run=NAME step=N, and give its folder"
    return [Problem(f"model folder {folder} has {', '.join(lacking)}", remedy)] if lacking else []


_HUB = "a model of the hub is named by posttrain.base_model.path=Organisation/Model base_model=folder"


def weights(folder: Path) -> list[Path]:
    """The weight files of a Hugging Face folder."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])


def parameters(folder: Path) -> int | None:
    """Parameters in a folder's safetensors files, read from their headers; None without such files.

    The header is JSON after eight bytes of its length (https://github.com/huggingface/safetensors#format).
    """
    files = sorted(folder.glob("*.safetensors"))
    return sum(_elements(file) for file in files) if files else None


def _elements(file: Path) -> int:
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _is_json(file: Path) -> bool:
    """Whether a file that is there holds a JSON object."""
    if not file.is_file():
        return True
    try:
        return isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except ValueError:
        return False


def _missing_shards(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return sorted(shard for shard in shards if not (folder / shard).is_file())


def _is_folder_path(path: str) -> bool:
    """Whether a model path means a folder here: it exists, or it is written like one (hub ids are Org/Model)."""
    return path.startswith(("/", ".", "~")) or Path(path).is_dir()
