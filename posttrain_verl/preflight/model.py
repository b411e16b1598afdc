"""The model folder: config, weights and tokenizer are there. Embedded models and hub ids are not folders yet."""

from __future__ import annotations

import json
import math
from pathlib import Path

from posttrain_verl.compose import Composed
from posttrain_verl.overrides import names, nearest
from posttrain_verl.problem import Problem

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def check(composed: Composed) -> list[Problem]:
    """Problems of every model folder that the launch names."""
    folders = dict.fromkeys(path for path in composed.models if _is_folder_path(path))
    return [problem for path in folders for problem in check_folder(Path(path).expanduser())]


def check_folder(folder: Path) -> list[Problem]:
    """Problems of one Hugging Face folder."""
    if not folder.is_dir():
        near = nearest(folder.name, names("base_model"))
        hint = f"did you mean base_model={near}? " if near else ""
        remedy = f"{hint}base_model takes a folder or one of: {', '.join(names('base_model'))}\n"
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
    remedy = "give the folder that save_pretrained wrote; a checkpoint of ours has it in its huggingface/ folder"
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


def _missing_shards(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return sorted(shard for shard in shards if not (folder / shard).is_file())


def _is_folder_path(path: str) -> bool:
    """Whether a model path means a folder here: it exists, or it is written like one (hub ids are Org/Model)."""
    return path.startswith(("/", ".", "~")) or Path(path).is_dir()
