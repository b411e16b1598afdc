"""Where rows come from: one small module a source, each with the real example row in its docstring."""

from __future__ import annotations

from collections.abc import Mapping

from data_prep.sources import column_sums, reasoning_gym
from data_prep.sources.source import Source, SourceSpec

KINDS: Mapping[str, Source] = {source.kind: source for source in (reasoning_gym.SOURCE, column_sums.SOURCE)}

__all__ = ["KINDS", "Source", "SourceSpec"]
