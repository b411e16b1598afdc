"""Rows in, Parquet and a manifest out.

`parse` checks a mix, `build` makes it into a folder, `is_complete` says whether a folder holds a finished build of it, and
`verify` reads every byte of a folder against its manifest. Imports neither VeRL, Ray nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from data_prep.errors import DataError, Problem
from data_prep.finished import is_complete
from data_prep.manifest import read_manifest, verify

if TYPE_CHECKING:
    from data_prep.builder import build
    from data_prep.mix import parse

__all__ = ["DataError", "Problem", "build", "is_complete", "parse", "read_manifest", "verify"]


def __getattr__(name: str) -> Any:
    """Import Arrow, pydantic and the sources when a mix is read or built: a manifest is read without them."""
    if name not in ("build", "parse"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("data_prep.builder"), name)
