"""The mix: which sources, which splits, in which shares. Read from a plain mapping, with all problems collected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data_prep.errors import DataError, Problem
from data_prep.sources import KINDS, SourceSpec

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
    """One Parquet file: how many rows (None: all there are), from which sources in which proportion."""

    name: str
    rows: int | None
    stages: tuple[Stage, ...]
    may_share_with: tuple[str, ...] = ()
    tokens: int | None = None


@dataclass(frozen=True)
class PromptSpec:
    """How a question becomes messages and a solution ends. `user` contains `{question}` exactly once."""

    user: str = "{question}"
    system: str | None = None
    answer: str = "hashes"


@dataclass(frozen=True)
class Mix:
    """A whole mix, checked."""

    seed: int
    sources: Mapping[str, SourceSpec]
    splits: Mapping[str, SplitSpec]
    prompts: Mapping[str, PromptSpec]
    filters: Mapping[str, Any] = field(default_factory=dict)
    decontaminate: Mapping[str, Any] = field(default_factory=dict)

    def prompt_for(self, ability: str) -> PromptSpec:
        """The prompt of an ability, or the mix's default one."""
        return self.prompts.get(ability) or self.prompts["default"]


class _Reader:
    """Reads keys out of mappings and keeps every problem."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def add(self, where: str, what: str, remedy: str) -> None:
        self.problems.append(Problem(where, what, remedy))

    def mapping(self, value: Any, where: str) -> Mapping[str, Any]:
        if isinstance(value, Mapping):
            return value
        if value is not None:
            self.add(where, f"is {value!r}, not a mapping", "write `key: value` lines under it")
        return {}

    def known(self, value: Mapping[str, Any], allowed: Iterable[str], where: str) -> None:
        allowed = list(allowed)
        for key in value:
            if key not in allowed:
                near = difflib.get_close_matches(str(key), allowed, 1)
                hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(allowed)}"
                self.add(f"{where}.{key}", "is not a known key", hint)

    def number(self, value: Any, where: str, least: float = 0) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            self.add(where, f"is {value!r}, not a number of at least {least:g}", "give a number")
            return least
        return value


def parse(config: Mapping[str, Any]) -> Mix:
    """Check a mix configuration. Raises DataError with every problem in it."""
    read = _Reader()
    allowed = (
        "name",
        "description",
        "seed",
        "sources",
        "splits",
        "prompts",
        "filters",
        "decontaminate",
        "limit",
        "budget",
    )
    read.known(config, allowed, "mix")
    seed = read.number(config.get("seed", 0), "mix.seed")
    sources = {
        name: _source(read, str(name), value)
        for name, value in read.mapping(config.get("sources"), "mix.sources").items()
    }
    if not sources:
        read.add("mix.sources", "names no source", "name at least one source")
    _no_twins(read, sources)
    splits = {
        name: _split(read, name, value, sources)
        for name, value in read.mapping(config.get("splits"), "mix.splits").items()
    }
    if not splits:
        read.add("mix.splits", "names no split", f"name at least one of {', '.join(SPLITS)}")
    read.known(splits, SPLITS, "mix.splits")
    prompts = _prompts(read, read.mapping(config.get("prompts"), "mix.prompts"))
    if read.problems:
        raise DataError(*read.problems)
    ordered = {name: splits[name] for name in SPLITS if name in splits}
    return Mix(int(seed), sources, ordered, prompts, config.get("filters") or {}, config.get("decontaminate") or {})


def _source(read: _Reader, name: str, value: Any) -> SourceSpec:
    where = f"mix.sources.{name}"
    entry = dict(read.mapping(value, where))
    kind = str(entry.pop("from", name))
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1)
        read.add(
            where,
            f"reads from {kind!r}, which is no source",
            f"did you mean {near[0]}?" if near else f"known: {', '.join(KINDS)}",
        )
        return SourceSpec(name, kind, name, "", entry)
    source = KINDS[kind]
    bad_rows = entry.pop("bad_rows", "error")
    if bad_rows not in ("error", "drop"):
        read.add(f"{where}.bad_rows", f"is {bad_rows!r}", "write error or drop")
    data_source, ability = entry.pop("data_source", source.data_source), entry.pop("ability", source.ability)
    read.known(entry, source.options, where)
    return SourceSpec(name, kind, str(data_source), str(ability), entry, bad_rows)


def _no_twins(read: _Reader, sources: Mapping[str, SourceSpec]) -> None:
    seen: dict[str, str] = {}
    for spec in sources.values():
        key = repr((spec.kind, sorted(spec.options.items(), key=str)))
        if key in seen:
            read.add(
                f"mix.sources.{spec.name}", f"reads the same rows as {seen[key]}", "name a source once, with one weight"
            )
        seen[key] = spec.name


def _split(read: _Reader, name: str, value: Any, sources: Mapping[str, SourceSpec]) -> SplitSpec:
    where = f"mix.splits.{name}"
    entry = read.mapping(value, where)
    read.known(entry, ("rows", "tokens", "sources", "stages", "may_share_with"), where)
    rows = entry.get("rows", "all")
    rows = None if rows == "all" else int(read.number(rows, f"{where}.rows", 1))
    stages = _stages(read, entry, where)
    for stage in stages:
        for source in stage.weights:
            if source not in sources:
                near = difflib.get_close_matches(source, sources, 1)
                read.add(
                    where,
                    f"uses source {source!r}, which the mix does not have",
                    f"did you mean {near[0]}?" if near else "add it to mix.sources",
                )
            elif (kind := KINDS.get(sources[source].kind)) and (use := _use(name)) not in kind.uses:
                read.add(
                    where,
                    f"uses {source} for {use}; it is only for {', '.join(kind.uses)}",
                    "take it out of this split",
                )
    share = tuple(entry.get("may_share_with") or ())
    tokens = entry.get("tokens")
    tokens = None if tokens is None else int(read.number(tokens, f"{where}.tokens", 1))
    return SplitSpec(name, rows, stages, share, tokens)


def _use(split: str) -> str:
    return "eval" if split == "test" else split.split("_")[0]


def _stages(read: _Reader, entry: Mapping[str, Any], where: str) -> tuple[Stage, ...]:
    default = _weights(read, entry.get("sources"), f"{where}.sources") if "sources" in entry else {}
    listed = entry.get("stages")
    if not listed:
        if not default:
            read.add(where, "names no source", "write sources: {name: weight}")
        return (Stage("", 1.0, default),)
    stages = []
    for number, value in enumerate(listed):
        place = f"{where}.stages[{number}]"
        value = read.mapping(value, place)
        read.known(value, ("name", "share", "sources", "difficulty"), place)
        weights = _weights(read, value["sources"], f"{place}.sources") if "sources" in value else default
        share = read.number(value.get("share", 1), f"{place}.share")
        stages.append(
            Stage(str(value.get("name", number)), share, weights, _bounds(read, value.get("difficulty"), place))
        )
    if sum(stage.share for stage in stages) <= 0:
        read.add(f"{where}.stages", "have shares that sum to 0", "give at least one stage a positive share")
    return tuple(stages)


def _bounds(read: _Reader, value: Any, where: str) -> tuple[float, float] | None:
    if value is None:
        return None
    if not (isinstance(value, Iterable) and len(pair := list(value)) == 2):
        read.add(
            f"{where}.difficulty", f"is {value!r}", "write [low, high]; rows with low <= difficulty <= high are taken"
        )
        return None
    low, high = (float(read.number(bound, f"{where}.difficulty", float("-inf"))) for bound in pair)
    return low, high


def _weights(read: _Reader, value: Any, where: str) -> dict[str, float]:
    weights = {
        str(name): float(read.number(weight, f"{where}.{name}")) for name, weight in read.mapping(value, where).items()
    }
    if sum(weights.values()) <= 0:
        read.add(where, "has weights that sum to 0", "give at least one source a positive weight")
    for name, weight in weights.items():
        if weight == 0 and sum(weights.values()) > 0:
            read.add(
                f"{where}.{name}", "has weight 0", "remove the source from this split, or give it a positive weight"
            )
    return weights


def _prompts(read: _Reader, value: Mapping[str, Any]) -> dict[str, PromptSpec]:
    prompts = {"default": PromptSpec()}
    for name, entry in value.items():
        where = f"mix.prompts.{name}"
        entry = read.mapping(entry, where)
        read.known(entry, ("user", "system", "answer"), where)
        prompt = PromptSpec(**{key: entry[key] for key in ("user", "system", "answer") if key in entry})
        if str(prompt.user).count("{question}") != 1:
            read.add(f"{where}.user", f"is {prompt.user!r}", "write {question} in it exactly once")
        if prompt.answer not in ANSWER_FORMATS:
            read.add(f"{where}.answer", f"is {prompt.answer!r}", f"write one of {', '.join(ANSWER_FORMATS)}")
        prompts[name] = prompt
    return prompts
