"""Reference log-probabilities on the disk: computed once, and kept beside the data under a hash of all that they follow from."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.manifest import file_sha256
from posttrain_verl.paths import write_atomically

FOLDER = "reference"  # beside the data, or in the run folder where that cannot be written to
MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")  # weights, config, tokenizer and template


def digest_files(files: Iterable[Path]) -> dict[str, str]:
    """The sha256 of each file by its name; hashlib lets other threads run, so that the shards of a model are read at once."""
    known = sorted(files)
    with ThreadPoolExecutor() as pool:
        return {file.name: digest for file, digest in zip(known, pool.map(file_sha256, known), strict=True)}


def digest_model(name: str) -> dict[str, str]:
    """What a model's weights, config, tokenizer and template are.

    Args:
        name: a folder, or an id of the hub whose snapshot is in the cache.
    """
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(name, local_files_only=True))
    return digest_files(file for file in folder.iterdir() if file.suffix in MODEL_FILES and file.is_file())


WEIGHTS = (".safetensors", ".bin")
WEIGHTS_FILE = "reference.json"  # of a run folder: the digests of the weights that are the reference


def require_same_model(run: Path, model: Mapping[str, str]) -> None:
    """Keep the digests of the weights that a run begins at, or compare them with those of its first attempt.

    Raises:
        RuntimeError: the files are others now, so that the reference would be another one.
    """
    weights = {name: digest for name, digest in model.items() if name.endswith(WEIGHTS)}
    file = run / WEIGHTS_FILE
    if not file.is_file():
        with suppress(OSError):
            write_atomically(file, json.dumps(weights) + "\n")
        return
    before = json.loads(file.read_text())
    if sorted(before.values()) != sorted(weights.values()):
        raise RuntimeError("the weights of the base model are not those that this run began at, and they are its reference: "
                           "put them back, or launch a new run")  # fmt: skip


def reference_key(facts: Mapping[str, Any]) -> str:
    """The name under which log-probabilities are kept that follow from `facts`, which JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def read_reference(homes: Iterable[Path], key: str, pairs: int) -> np.ndarray | None:
    """What is kept in one of the folders: (pairs, 2) of fp32; None where nothing is, or where a file is damaged."""
    for home in homes:
        with suppress(OSError, ValueError, EOFError):
            found: np.ndarray = np.load(home / f"{key}.npy", allow_pickle=False)
            if found.shape == (pairs, 2) and found.dtype == np.float32 and np.isfinite(found).all():
                return found
    return None


def write_reference(homes: Iterable[Path], key: str, values: np.ndarray) -> Path | None:
    """Keep the values in the first folder that can be written to, whole or not at all; None where there is no such folder."""
    for home in homes:
        with suppress(OSError):
            home.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=home, suffix=".building")
            try:
                with os.fdopen(handle, "wb") as opened:
                    np.save(opened, values, allow_pickle=False)
                os.replace(name, home / f"{key}.npy")
            finally:
                Path(name).unlink(missing_ok=True)
            return home / f"{key}.npy"
    return None
