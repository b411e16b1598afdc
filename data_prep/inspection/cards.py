"""The rows to look at: drawn by source, split and difficulty, with flags, reward, and the templated text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep import filters
from data_prep.filters import Case
from data_prep.fingerprint import row_keys, scramble
from data_prep.mix import SPLITS
from data_prep.schema import is_sft

Messages = list[dict[str, str]]
# Messages to (text, whether the loss counts it, number of tokens) in order.
# The text of RL rows ends where the model begins.
Template = Callable[[Messages], Sequence[tuple[str, bool, int]]]
HISTOGRAM_BINS = 24


@dataclass(frozen=True)
class Card:
    """One row to look at. `flags` are reasons with details, `reward` the grade of the gold by its own reward (None for
    SFT and code), `rendered` the pieces of the templated text with whether they are trained on and their tokens."""

    split: str
    row: dict[str, Any]
    messages: Messages
    gold: str | None
    flags: dict[str, str]
    reward: dict[str, Any] | None
    rendered: Sequence[tuple[str, bool, int]]

    @property
    def info(self) -> dict[str, Any]:
        return self.row["extra_info"]

    @property
    def tokens(self) -> int:
        return sum(piece[2] for piece in self.rendered)


def draw(folder: Path, per_source: int, seed: int, template: Template) -> list[Card]:
    """`per_source` rows of each source in each split, spread over its range of difficulty."""
    cards = []
    for split in SPLITS:
        path = folder / f"{split}.parquet"
        if path.is_file():
            table = pq.read_table(path)
            cards += [
                card(split, row, template) for row in table.take(pa.array(_chosen(table, per_source, seed))).to_pylist()
            ]
    return cards


def _chosen(table: pa.Table, per_source: int, seed: int) -> np.ndarray:
    info = table["extra_info"].combine_chunks()
    source, difficulty = info.field("source"), info.field("difficulty").fill_null(0.0).to_numpy(zero_copy_only=False)
    order = scramble(row_keys(info.field("id")) ^ scramble(np.array([seed], dtype=np.uint64)))
    chosen = []
    for name in pc.unique(source).sort():
        mine = np.flatnonzero(pc.equal(source, name).to_numpy(zero_copy_only=False))
        ranked = mine[np.lexsort((order[mine], difficulty[mine]))]
        strata = np.array_split(ranked, min(per_source, len(ranked)))
        chosen += [stratum[np.argmin(order[stratum])] for stratum in strata]
    return np.array(chosen, dtype=np.int64)


def card(split: str, row: dict[str, Any], template: Template) -> Card:
    """Everything to show about one row."""
    messages = row["messages"] if is_sft(split) else row["prompt"]
    gold = None if is_sft(split) else row["reward_model"]["ground_truth"]
    question = next((turn["content"] for turn in messages if turn["role"] == "user"), "")
    solution = messages[-1]["content"] if is_sft(split) else None
    case = Case(question, gold, solution, row["data_source"], row["ability"])
    return Card(split, row, messages, gold, filters.flags(case), _reward(row, gold), template(messages))


def _reward(row: dict[str, Any], gold: str | None) -> dict[str, Any] | None:
    if gold is None or row["ability"] == "code":
        return None
    from reward_fns import grade

    return grade(row["data_source"], f"\\boxed{{{gold}}}", gold)


@dataclass(frozen=True)
class Histogram:
    """How many rows of a split have how many bytes of text: `counts[i]` between `edges[i]` and `edges[i + 1]`."""

    split: str
    edges: np.ndarray
    counts: np.ndarray


def histograms(folder: Path) -> list[Histogram]:
    """The lengths of all rows, a split at a time, in equal steps of their logarithm."""
    found = []
    for split in SPLITS:
        path = folder / f"{split}.parquet"
        if path.is_file() and len(lengths := _lengths(path, split)):
            edges = np.geomspace(max(1, lengths.min()), lengths.max() + 1, HISTOGRAM_BINS + 1)
            found.append(Histogram(split, edges, np.histogram(lengths, edges)[0]))
    return found


def _lengths(path: Path, split: str) -> np.ndarray:
    column = "messages" if is_sft(split) else "prompt"
    parts = [np.empty(0, dtype=np.int64)]
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=[column]):
            turns = batch[column]
            per_turn = pc.binary_length(pc.struct_field(turns.flatten(), "content")).to_numpy(zero_copy_only=False)
            offsets = turns.offsets.to_numpy() - turns.offsets[0].as_py()
            parts.append(np.add.reduceat(per_turn, offsets[:-1]) if len(per_turn) else parts[0])
    return np.concatenate(parts)


def dropped(folder: Path, per_reason: int) -> dict[str, list[dict[str, Any]]]:
    """The first dropped rows of each reason."""
    path = folder / "dropped.parquet"
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(path).to_pylist() if path.is_file() else ():
        rows.setdefault(row["reason"], []).append(row)
    return {reason: kept[:per_reason] for reason, kept in sorted(rows.items())}


def difficulty(value: float | None) -> str:
    """The difficulty of a row in a heading, with two blanks before it; nothing where it is not known."""
    return "" if value is None else f"  difficulty {value:.3g}"
