"""Where rows come from: one small module a source, each with the real example row in its docstring."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from data_prep.sources.source import Source, SourceSpec

MODULES = (
    "aime24",
    "aime25",
    "amc23",
    "apps",
    "column_sums",
    "columns",
    "dapo_math",
    "deepscaler",
    "gsm8k",
    "humaneval",
    "humaneval_plus",
    "kodcode",
    "linear_functions",
    "math",
    "math_500",
    "mbpp",
    "mbpp_plus",
    "numina_math",
    "open_math_instruct",
    "open_thoughts",
    "openr1_math",
    "reasoning_gym",
    "svamp",
    "taco",
)
KINDS: Mapping[str, Source] = {name: import_module(f"data_prep.sources.{name}").SOURCE for name in MODULES}

__all__ = ["KINDS", "Source", "SourceSpec"]
