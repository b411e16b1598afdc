"""What a stage says of the rows of its data: how long they may be, what they must not be, and which lengths a trainer logs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RowLimit:
    """How long a row may be: `limit` tokens, the value of `key`. VeRL ends at a longer one (`ends_run`) or does `fate` to it.

    `escape` is the override that lets longer rows pass, and may say more.
    """

    key: str
    limit: int
    ends_run: bool
    fate: str
    escape: str


@dataclass(frozen=True)
class MeasuredLength:
    """A length in tokens that a trainer logs under `metric`: what it is, e.g. "longest prompt", and the key of its limit."""

    what: str
    metric: str
    key: str


@dataclass(frozen=True)
class RowRule:
    """What rows must not be. `breaks` gets rows as an Arrow batch of `columns`, and says of each whether it is so.

    `what` is the beginning of a sentence that ends with the number of rows. Nothing is said where at most the share `tolerated`
    of the rows is so. It is a problem where all rows are or `blocks` says so, else a warning.
    """

    columns: tuple[str, ...]
    breaks: Callable[[Any], Any]
    what: str
    remedy: str
    blocks: bool = False
    tolerated: float = 0.0
