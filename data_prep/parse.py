"""Read a mix from a plain mapping, with all problems collected before stopping."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data_prep import filters, sizing
from data_prep.errors import DataError
from data_prep.keys import Reader
from data_prep.mix import ANSWER_FORMATS, SPLITS, Mix, PromptSpec, SplitSpec, Stage
from data_prep.sources import KINDS, SourceSpec

_NAME = re.compile(r"\w[\w.-]*")
ABILITIES = ("math", "code")
KEYS = (
    "name", "description", "offline", "seed", "sources", "splits", "prompts", "filters", "decontaminate", "limit",
    "budget",
)  # fmt: skip


def parse(config: Mapping[str, Any]) -> Mix:
    """Check a mix configuration. Raises DataError with every problem in it."""
    read = Reader()
    read.known(config, KEYS, "mix")
    if not _NAME.fullmatch(str(config.get("name", "mix"))):
        read.add(
            "mix.name",
            f"is {config['name']!r}",
            "write letters, digits, dots, dashes and underscores: it names a folder",
        )
    seed = read.whole(config.get("seed", 0), "mix.seed")
    listed = read.mapping(config.get("sources"), "mix.sources")
    sources = {str(name): _source(read, str(name), value) for name, value in listed.items()}
    if not sources:
        read.add("mix.sources", "names no source", "name at least one source")
    _no_twins(read, sources)
    listed = read.mapping(config.get("splits"), "mix.splits")
    splits = {str(name): _split(read, str(name), value, sources) for name, value in listed.items()}
    if not splits:
        read.add("mix.splits", "names no split", f"name at least one of {', '.join(SPLITS)}")
    read.known(splits, SPLITS, "mix.splits")
    prompts = _prompts(read, read.mapping(config.get("prompts"), "mix.prompts"))
    switches = _filters(read, config.get("filters"))
    _rewards(read, splits, sources)
    if read.problems:
        raise DataError(*read.problems)
    ordered = {name: splits[name] for name in SPLITS if name in splits}
    mix = Mix(seed, sources, ordered, prompts, switches)
    mix = _decontamination(read, mix, config.get("decontaminate"))
    sizes = {
        key: read.whole(config[key], f"mix.{key}", 1) for key in ("limit", "budget") if config.get(key) is not None
    }
    if len(sizes) == 2:
        read.add("mix.limit", "stands beside mix.budget", "give one of them")
    if read.problems:
        raise DataError(*read.problems)
    return sizing.resize(mix, **sizes)


def _filters(read: Reader, value: Any) -> Mapping[str, Any]:
    switches = read.mapping(value, "mix.filters")
    read.known(switches, ("all", *filters.REASONS[2:]), "mix.filters")
    _limits(read, read.mapping(switches.get("too_long"), "mix.filters.too_long"))
    for name, value in switches.items():
        if name not in ("too_long", "near_duplicate") and not isinstance(value, bool):
            read.add(f"mix.filters.{name}", f"is {value!r}", "write true or false")
    near = switches.get("near_duplicate") or 0
    if not 0 <= read.number(near, "mix.filters.near_duplicate") <= 1:
        read.add("mix.filters.near_duplicate", f"is {near!r}", "give a Jaccard similarity between 0 and 1, such as 0.8")
    return switches


def _limits(read: Reader, limits: Mapping[str, Any]) -> None:
    where = "mix.filters.too_long"
    read.known(limits, ("prompt", "solution", "tokenizer"), where)
    for name in ("prompt", "solution"):
        if limits.get(name) is not None:
            read.whole(limits[name], f"{where}.{name}", 1)
    if not isinstance(limits.get("tokenizer", ""), str):
        read.add(
            f"{where}.tokenizer", f"is {limits['tokenizer']!r}", "give a folder or name of a model, or write bytes"
        )


def _rewards(read: Reader, splits: Mapping[str, SplitSpec], sources: Mapping[str, SourceSpec]) -> None:
    """Every source that is graded has a reward."""
    from reward_fns import UnknownSource
    from reward_fns.registry import resolve

    graded = {
        name for split in splits.values() if _use(split.name) != "sft" for name in split.sources() if name in sources
    }
    for name in sorted(graded):
        try:
            resolve(sources[name].data_source)
        except UnknownSource as error:
            read.add(f"mix.sources.{name}.data_source", str(error), "set data_source to a known one, such as math/NAME")


def _decontamination(read: Reader, mix: Mix, value: Any) -> Mix:
    entry = read.mapping(value, "mix.decontaminate")
    read.known(entry, ("against", "ngrams", "drop"), "mix.decontaminate")
    against = read.names(entry.get("against", mix.held_out()), "mix.decontaminate.against")
    for name in against:
        if name not in mix.held_out():
            read.add(
                "mix.decontaminate.against",
                f"names {name!r}, which is no source for evaluation only",
                "name a source that no training split uses",
            )
    sizes = entry.get("ngrams", (8, 13))
    ngrams = tuple(
        read.whole(n, "mix.decontaminate.ngrams", 2) for n in (sizes if isinstance(sizes, Sequence) else [sizes])
    )
    if not ngrams:
        read.add("mix.decontaminate.ngrams", "names no length", "write some, such as [8, 13]")
    drop = entry.get("drop", max(ngrams, default=13))
    return replace(
        mix,
        against=against,
        ngrams=ngrams,
        drop_ngram=None if drop in (None, False) else read.whole(drop, "mix.decontaminate.drop", 2),
    )


def _source(read: Reader, name: str, value: Any) -> SourceSpec:
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
    if kind == "reasoning_gym" and data_source == source.data_source:
        data_source = f"reasoning_gym/{entry.get('family')}"
    unique = entry.pop("unique", "question")
    if unique not in ("question", "row"):
        read.add(f"{where}.unique", f"is {unique!r}", "write question or row")
    if ability not in ABILITIES:
        read.add(f"{where}.ability", f"is {ability!r}", f"write one of {', '.join(ABILITIES)}")
    read.known(entry, source.options, where)
    return SourceSpec(name, kind, str(data_source), str(ability), entry, bad_rows, unique)


def _no_twins(read: Reader, sources: Mapping[str, SourceSpec]) -> None:
    seen: dict[str, str] = {}
    for spec in sources.values():
        path = {"path": os.path.realpath(spec.options["path"])} if isinstance(spec.options.get("path"), str) else {}
        key = repr((spec.kind, sorted((dict(spec.options) | path).items(), key=str)))
        if key in seen:
            read.add(
                f"mix.sources.{spec.name}", f"reads the same rows as {seen[key]}", "name a source once, with one weight"
            )
        seen[key] = spec.name


def _split(read: Reader, name: str, value: Any, sources: Mapping[str, SourceSpec]) -> SplitSpec:
    where = f"mix.splits.{name}"
    entry = read.mapping(value, where)
    read.known(entry, ("rows", "tokens", "sources", "stages", "may_share_with"), where)
    rows = entry.get("rows", "all")
    rows = None if rows == "all" else read.whole(rows, f"{where}.rows", 1)
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
    share = read.names(entry.get("may_share_with") or (), f"{where}.may_share_with")
    read.known(share, SPLITS, f"{where}.may_share_with")
    tokens = entry.get("tokens")
    tokens = None if tokens is None else read.whole(tokens, f"{where}.tokens", 1)
    return SplitSpec(name, rows, stages, share, tokens)


def _use(split: str) -> str:
    return "eval" if split == "test" else split.split("_")[0]


def _stages(read: Reader, entry: Mapping[str, Any], where: str) -> tuple[Stage, ...]:
    default = _weights(read, entry.get("sources"), f"{where}.sources") if "sources" in entry else {}
    listed = entry.get("stages")
    if not listed:
        if not default:
            read.add(where, "names no source", "write sources: {name: weight}")
        return (Stage("", 1.0, default),)
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        read.add(
            f"{where}.stages", f"is {listed!r}, not a list", "write one `- {share: 1, sources: {name: weight}}` a stage"
        )
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


def _bounds(read: Reader, value: Any, where: str) -> tuple[float, float] | None:
    if value is None:
        return None
    if not (isinstance(value, Sequence) and not isinstance(value, str) and len(pair := list(value)) == 2):
        read.add(
            f"{where}.difficulty", f"is {value!r}", "write [low, high]; rows with low <= difficulty <= high are taken"
        )
        return None
    low, high = (float(read.number(bound, f"{where}.difficulty", float("-inf"), finite=False)) for bound in pair)
    if low > high:
        read.add(
            f"{where}.difficulty", f"is {value!r}: no number lies in it", "write [low, high], the lower bound first"
        )
    return low, high


def _weights(read: Reader, value: Any, where: str) -> dict[str, float]:
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


def _prompts(read: Reader, value: Mapping[str, Any]) -> dict[str, PromptSpec]:
    prompts = {"default": PromptSpec()}
    for name, entry in value.items():
        where = f"mix.prompts.{name}"
        entry = read.mapping(entry, where)
        read.known(entry, ("user", "system", "answer"), where)
        prompt = PromptSpec(**{key: entry[key] for key in ("user", "system", "answer") if key in entry})
        if str(prompt.user).count("{question}") != 1:
            read.add(f"{where}.user", f"is {prompt.user!r}", "write {question} in it exactly once")
        if not isinstance(prompt.system, str | None):
            read.add(f"{where}.system", f"is {prompt.system!r}, not a text", "write a text, or null for none")
        if prompt.answer not in ANSWER_FORMATS:
            read.add(f"{where}.answer", f"is {prompt.answer!r}", f"write one of {', '.join(ANSWER_FORMATS)}")
        prompts[name] = prompt
    return prompts
