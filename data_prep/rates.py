"""Pass rates of a model, which `synthesize` measures: which questions they drop, and how hard the others are.

A question that a model always or never solves gives GRPO no gradient. Rates are found by the text of the question, so that they
hold for any mix that has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, Field

from data_prep.declaration import Declaration, Number, must
from data_prep.errors import DataError, Problem
from data_prep.fingerprint import row_keys
from data_prep.manifest import file_sha256
from data_prep.pool import Pool
from data_prep.sources.synthesized import RATES

PASS_RATE = "pass_rate"  # the reason of a dropped row
_IN_ORDER = must(
    lambda pair: pair[0] <= pair[1], "write [low, high], the lower bound first", "is {value}: no rate lies in it"
)


class Rates(Declaration):
    """The rates of `path`, a folder of `synthesize` or its rates.parquet. Questions with a rate from low to high are kept, and
    those without one as `unknown` says."""

    path: str = Field(description="name the folder that synthesize wrote, such as data/NAME")
    keep: Annotated[
        tuple[Annotated[Number, Field(ge=0, le=1)], Annotated[Number, Field(ge=0, le=1)]], AfterValidator(_IN_ORDER)
    ] = Field(default=(0.0, 1.0), description="write [low, high], such as [0.1, 0.9]")
    unknown: Literal["keep", "drop"] = "keep"

    @property
    def file(self) -> Path:
        given = Path(self.path).expanduser()
        return given / RATES if given.is_dir() else given


def apply_rates(rates: Rates, pool: Pool, drops: bool) -> dict[str, Any]:
    """Give each question of the pool the difficulty 1 - rate and, if `drops`, mark those outside of the range that is kept.

    Returns what the manifest says. Raises DataError: there are no such rates.
    """
    keys, known = _read_rates(rates.file)
    place = np.minimum(np.searchsorted(keys, pool.key), max(0, len(keys) - 1))
    has_rate = keys[place] == pool.key if len(keys) else np.zeros(len(pool), dtype=bool)
    rate = np.where(has_rate, known[place] if len(keys) else np.nan, np.nan)
    pool.difficulty[has_rate] = 1 - rate[has_rate]
    low, high = rates.keep
    if drops:
        pool.mark(np.flatnonzero(pool.good & (rate < low)), PASS_RATE, f"the pass rate is below {low:g}")
        pool.mark(np.flatnonzero(pool.good & (rate > high)), PASS_RATE, f"the pass rate is above {high:g}")
        if rates.unknown == "drop":
            pool.mark(np.flatnonzero(pool.good & ~has_rate), PASS_RATE, "there is no pass rate")
    return {"sha256": file_sha256(rates.file), "rows_with_a_rate": int(has_rate.sum())}


def _read_rates(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The sorted keys of the questions, and the rate of each."""
    remedy = "name the folder that synthesize wrote, or its rates.parquet"
    try:
        table = pq.read_table(file, columns=["question", "rate"])
    except (OSError, pa.ArrowException) as error:
        what = f"{file} cannot be read ({' '.join(str(error).split())[:200]})"
        raise DataError(Problem("mix.rates.path", what, remedy)) from None
    if table.column_names != ["question", "rate"]:
        raise DataError(Problem("mix.rates.path", f"{file} has no columns question and rate", remedy))
    table = table.filter(table["rate"].is_valid()).combine_chunks()
    keys, first = np.unique(row_keys(table["question"].combine_chunks()), return_index=True)
    return keys, table["rate"].to_numpy()[first]
