"""Rows to look at: some of a Parquet file, spread over all of it, without reading the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUPS = 8  # row groups that are read of one file


def rows(file: Path, columns: list[str], count: int) -> list[dict[str, Any]]:
    """Up to `count` rows, evenly spaced over the file (over GROUPS of its row groups), with `columns` of them.

    The same rows for the same file: what a check says does not depend on luck.
    """
    parquet = pq.ParquetFile(file)
    groups = _spread(parquet.num_row_groups, GROUPS)
    table = parquet.read_row_groups(groups, columns=columns) if groups else pa.table({})
    return table.take(_spread(table.num_rows, count)).to_pylist()


def _spread(total: int, count: int) -> list[int]:
    """At most `count` of the numbers below `total`, evenly spaced, the first and the last among them."""
    return sorted({int(place) for place in np.linspace(0, max(total - 1, 0), min(total, count))})
