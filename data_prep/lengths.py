"""Lengths in the tokens of a chosen tokenizer. The chat template's own few tokens are not counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.errors import DataError, Problem

Counter = Callable[[pa.Array], np.ndarray]


def counter(name: str) -> Counter:
    """A function from texts to their lengths. `bytes` counts UTF-8 bytes, which are the tokens of a byte-level model;
    else the folder, tokenizer.json or hub name of a Hugging Face tokenizer. Raises DataError if it cannot be had."""
    if name == "bytes":
        return _bytes
    from tokenizers import Tokenizer

    path = Path(name).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else Tokenizer.from_pretrained(name)
    except Exception as error:  # the Rust binding raises bare Exception for whatever goes wrong
        remedy = "give the folder of a model that has tokenizer.json, or write bytes"
        raise DataError(Problem("mix.filters.too_long.tokenizer", f"{name}: {str(error)[:200]}", remedy)) from None

    def count(texts: pa.Array) -> np.ndarray:
        filled = pc.fill_null(texts, "").to_pylist()
        return np.array(
            [len(each.ids) for each in tokenizer.encode_batch_fast(filled, add_special_tokens=False)], dtype=np.int64
        )

    return count


def _bytes(texts: pa.Array) -> np.ndarray:
    return pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False)
