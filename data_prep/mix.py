"""The nouns of a mix: sources, splits, curriculum stages, prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data_prep.sources import SourceSpec

# Held-out rows are chosen first, so that a training split can never take a question from them.
SPLITS = ("test", "rl_val", "sft_val", "rl_train", "sft_train")
ANSWER_FORMATS = ("hashes", "boxed", "code", "plain")


@dataclass(frozen=True)
class Stage:
    """One step of a curriculum: `share` of the split's rows, from `weights` and within `difficulty` (low, high)."""

    name: str
    share: float
    weights: Mapping[str, float]
    difficulty: tuple[float, float] | None = None


@dataclass(frozen=True)
class SplitSpec:
    """One Parquet file: at most `rows` rows and `tokens` tokens (None: all there are), from which sources in
    which proportion, in the order of the curriculum. With `or_fewer` it may have less than its rows."""

    name: str
    rows: int | None
    stages: tuple[Stage, ...]
    may_share_with: tuple[str, ...] = ()
    tokens: int | None = None
    or_fewer: bool = False

    def sources(self) -> set[str]:
        """All sources that some stage draws from."""
        return {name for stage in self.stages for name in stage.weights}


@dataclass(frozen=True)
class PromptSpec:
    """How a question becomes messages and a solution ends. `user` contains `{question}` exactly once."""

    user: str = "{question}"
    system: str | None = None
    answer: str = "hashes"


@dataclass(frozen=True)
class Mix:
    """A whole mix, checked.

    `against` names the sources that training rows must not overlap with, `ngrams` the lengths that are counted, and
    `drop_ngram` the one from which on a row is dropped (None: left in and reported). `read_at_most` rows of each source
    are read and `lenient` splits take what there is: both for small builds."""

    seed: int
    sources: Mapping[str, SourceSpec]
    splits: Mapping[str, SplitSpec]
    prompts: Mapping[str, PromptSpec]
    filters: Mapping[str, Any] = field(default_factory=dict)
    against: tuple[str, ...] = ()
    ngrams: tuple[int, ...] = (8, 13)
    drop_ngram: int | None = 13
    read_at_most: int | None = None
    lenient: bool = False

    def prompt_for(self, ability: str) -> PromptSpec:
        """The prompt of an ability, or the mix's default one."""
        return self.prompts.get(ability) or self.prompts["default"]

    def held_out(self) -> tuple[str, ...]:
        """Sources that serve evaluation only: the test split or decontamination, and no training split."""
        trained = {name for split in self.splits.values() if split.name != "test" for name in split.sources()}
        return tuple(name for name in self.sources if name not in trained)
