"""Rows in, Parquet and a manifest out.

`parse` checks a mix, `build` makes it into a folder, `is_complete` says whether a folder holds a finished build of it, and
`verify` reads every byte of a folder against its manifest. Imports neither VeRL, Ray nor torch.
"""

from data_prep.build import build
from data_prep.errors import DataError, Problem
from data_prep.manifest import is_complete, verify
from data_prep.manifest import read as read_manifest
from data_prep.parse import parse

__all__ = ["DataError", "Problem", "build", "is_complete", "parse", "read_manifest", "verify"]
