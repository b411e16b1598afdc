"""The declaration of a mix: sources, splits, the stages of a curriculum, prompts, filters and decontamination."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from data_prep import declaration
from data_prep.answer_marks import ENDINGS, MARKS, describe_marks, find_marks
from data_prep.declaration import (
    OWN_NAME,
    Declaration,
    Found,
    Number,
    Positive,
    Whole,
    as_mapping,
    listed,
    must,
    nearest,
    wrong,
)
from data_prep.errors import DataError, Problem
from data_prep.filters import REASONS, Uses
from data_prep.rates import Rates
from data_prep.schema import TEST, row_kind, split_names, use_of
from data_prep.sources import KINDS, SourceSpec, rows_read, spec_of, with_defaults
from reward_fns import UnknownSource
from reward_fns.registry import resolve


def _in_order(splits: dict[str, Any]) -> dict[str, Any]:
    if not splits:
        raise wrong("names no split", f"name at least one of {', '.join(split_names())}")
    return {name: splits[name] for name in split_names() if name in splits}


_ORDERED = must(
    lambda pair: pair[0] <= pair[1], "write [low, high], the lower bound first", "is {value}: no number lies in it"
)
_ASKS_ONCE = must(lambda text: text.count("{question}") == 1, "write {question} in it exactly once")
_SOURCE_NAMED = must(len, "name at least one source", "names no source")
_WEIGH = "write {name: weight}, each weight above 0; leave out a source that gives no rows"
_LENGTH_NAMED = must(len, "write some, such as [8, 13]", "names no length")

Source = Annotated[
    SourceSpec, BeforeValidator(lambda entry: spec_of(entry[OWN_NAME], entry) if isinstance(entry, Mapping) else entry)
]
SplitName = Annotated[str, AfterValidator(lambda name: declaration.one_of(split_names())(name))]
Reason = Annotated[str, AfterValidator(declaration.one_of(("all", *REASONS[2:])))]
Share = Annotated[Number, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, BeforeValidator(str)]  # a number in yaml is a name, too
Weight = Annotated[Number, Field(gt=0, allow_inf_nan=False)]
Length = Annotated[Whole, Field(ge=2)]


class Stage(Declaration):
    """One step of a curriculum: `share` of the split's rows, from `sources` in the proportion of their weights (those of
    the split where it names none) and within `difficulty` (low, high)."""

    name: Name = ""
    share: Share = 1.0
    sources: dict[Name, Weight] = Field(default={}, description=_WEIGH)
    difficulty: Annotated[tuple[Number, Number], AfterValidator(_ORDERED)] | None = Field(
        default=None, description="write [low, high]; rows with low <= difficulty <= high are taken"
    )


class SplitSpec(Declaration):
    """One Parquet file: at most `rows` rows and `tokens` tokens (None: all there are), from which sources in which
    proportion, in the order of the curriculum."""

    name: str = Field(validation_alias=OWN_NAME)
    rows: Annotated[Positive | None, BeforeValidator(lambda rows: None if rows == "all" else rows)] = None
    tokens: Positive | None = None
    may_share_with: Annotated[tuple[SplitName, ...], BeforeValidator(listed)] = ()
    sources: dict[Name, Weight] = Field(default={}, description=_WEIGH)
    stages: Annotated[tuple[Stage, ...], BeforeValidator(lambda stages: stages or ())] = Field(
        default=(), description="write one `- {share: 1, sources: {name: weight}}` a stage"
    )

    @property
    def curriculum(self) -> tuple[Stage, ...]:
        """The stages in their order, each with a name and with weights. A split without stages is one, without a name."""
        whole = Stage.model_construct(sources=self.sources)
        return tuple(
            stage.model_copy(update={"name": stage.name or str(number), "sources": stage.sources or self.sources})
            for number, stage in enumerate(self.stages)
        ) or (whole,)

    def source_names(self) -> set[str]:
        return {name for stage in self.curriculum for name in stage.sources}

    @classmethod
    def contradictions(cls, given: Mapping[Any, Any]) -> Iterator[Found]:
        outline = _outline(given)
        if not all(stage.sources for stage in outline.curriculum) and isinstance(given.get("sources", {}), Mapping):
            yield (), wrong("names no source", "write sources: {name: weight}")
        if outline.stages and all(as_mapping(stage).get("share", 1) == 0 for stage in given["stages"]):
            yield ("stages",), wrong("have shares that sum to 0", "give at least one stage a positive share")


def _outline(split: Any) -> SplitSpec:
    """The sources that a split names, and those of its stages, whatever else is wrong with it."""

    def weights(part: Any) -> dict[str, Any]:
        return {str(name): weight for name, weight in as_mapping(as_mapping(part).get("sources")).items()}

    stages = as_mapping(split).get("stages")
    parts = stages if isinstance(stages, list | tuple) else ()
    named = tuple(Stage.model_construct(sources=weights(part)) for part in parts)
    return SplitSpec.model_construct(sources=weights(split), stages=named)


class PromptSpec(Declaration):
    """How a question becomes messages and a solution ends. Without `answer` a solution ends as the prompt asks."""

    user: Annotated[str, AfterValidator(_ASKS_ONCE)] = "{question}"
    system: str | None = Field(default=None, description="write a text, or null for none")
    answer: Literal["hashes", "boxed", "tag", "code", "plain"] | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """The marks that the prompt itself names."""
        return find_marks(f"{self.system or ''}\n{self.user}")

    @property
    def mark(self) -> str | None:
        """The mark that the prompt itself asks for, so that an answer counts only with it; None where it asks for none."""
        return self.answer if self.answer in self.asked else None

    def resolved(self, ability: str) -> Self:
        """The prompt for an ability, with the form of its answers. A gold of code is tests, which no solution ends in."""
        asked = self.asked[0] if len(self.asked) == 1 else "hashes"
        form = self.answer or asked
        return self.model_copy(update={"answer": "code" if ability == "code" and form != "plain" else form})

    @classmethod
    def contradictions(cls, given: Mapping[Any, Any]) -> Iterator[Found]:
        form, asked = given.get("answer"), find_marks(f"{given.get('system') or ''}\n{given.get('user')}")
        if isinstance(form, str) and form in MARKS and asked and form not in asked:
            what = f"is {form}, so that solutions end in {MARKS[form]}, and the prompt asks for {describe_marks(asked)}"
            yield ("answer",), wrong(what, f"write answer: {asked[0]}, or ask for {MARKS[form]} in the prompt")


class Limits(Declaration):
    """The most tokens of a prompt and of a solution (None: no limit), and what counts them."""

    prompt: Positive | None = None
    solution: Positive | None = None
    tokenizer: str = Field(default="bytes", description="give a folder or name of a model, or write bytes")


class Switches(Declaration, extra="allow"):
    """A switch for each reason to drop a row; `all` is for those that are not named."""

    all: StrictBool = True
    too_long: Annotated[Limits, BeforeValidator(lambda limits: {} if limits is False else limits)] = Limits()
    near_duplicate: Annotated[
        Number, Field(ge=0, le=1), BeforeValidator(lambda least: 0 if least is None or least is False else least)
    ] = Field(default=0.0, description="give a Jaccard similarity between 0 and 1, such as 0.8")
    __pydantic_extra__: dict[Reason, StrictBool] = Field(init=False)

    def named(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


class Decontamination(Declaration):
    """`against` names the sources that training rows must not overlap with (None: all that are for evaluation only),
    `ngrams` the lengths that are counted, and `drop` the one from which on a row is dropped (None: left in and reported)."""

    against: Annotated[tuple[str, ...], BeforeValidator(listed)] | None = None
    ngrams: Annotated[
        tuple[Length, ...],
        BeforeValidator(lambda sizes: sizes if isinstance(sizes, list | tuple) else [sizes]),
        AfterValidator(_LENGTH_NAMED),
    ] = (8, 13)
    drop: Annotated[Length | None, BeforeValidator(lambda drop: drop or None)] = None

    def drop_from(self) -> int | None:
        """`drop`, or the longest of `ngrams` where the mix does not say."""
        return self.drop if "drop" in self.model_fields_set else max(self.ngrams)


class Mix(Declaration):
    """A whole mix, checked. Of `budget` and `limit` one may be given: the rows of all splits together."""

    name: Name = Field(
        default="mix",
        pattern=r"^\w[\w.-]*$",
        description="write letters, digits, dots, dashes and underscores: it names a folder",
    )
    description: Any = None
    offline: Any = None
    seed: Whole = 0
    sources: Annotated[dict[str, Source], BeforeValidator(declaration.named), AfterValidator(_SOURCE_NAMED)] = Field(
        default=None, validate_default=True
    )
    splits: Annotated[dict[SplitName, SplitSpec], BeforeValidator(declaration.named), AfterValidator(_in_order)] = (
        Field(default=None, validate_default=True)
    )
    prompts: Annotated[dict[str, PromptSpec], BeforeValidator(lambda prompts: {} if prompts is None else prompts)] = (
        Field(default={})
    )
    filters: Switches = Switches()
    decontaminate: Decontamination = Decontamination()
    rates: Rates | None = None
    budget: Positive | None = None
    limit: Positive | None = None

    def prompt_for(self, ability: str) -> PromptSpec:
        """The prompt of an ability, or the mix's default one, with the form of its answers."""
        return (self.prompts.get(ability) or self.prompts.get("default") or PromptSpec()).resolved(ability)

    def uses_of(self, source: str) -> Uses:
        """What the splits use of a source's rows, by kind of row, and how its solutions are rendered."""
        prompt = self.prompt_for(self.sources[source].ability)
        writes_gold = prompt.answer in ENDINGS
        kinds = [row_kind(name) for name, split in self.splits.items() if source in split.source_names()]
        return Uses({kind.name: kind.parts(writes_gold) for kind in kinds}, writes_gold, prompt.asked)

    def held_out(self) -> tuple[str, ...]:
        """Sources that serve evaluation only: the test split or decontamination, and no training split."""
        trained = {name for split in self.splits.values() if split.name != TEST for name in split.source_names()}
        return tuple(name for name in self.sources if name not in trained)

    def against(self) -> tuple[str, ...]:
        """The sources that training rows must not overlap with."""
        return self.held_out() if self.decontaminate.against is None else self.decontaminate.against

    @classmethod
    def _said(cls, error: ErrorDetails) -> PydanticCustomError:
        if error["type"] == "extra_forbidden" and error["loc"] == ("rows",):
            return wrong("is not a key of a mix", "write limit: N; rows=N is what the command line calls it")
        return super()._said(error)

    @classmethod
    def contradictions(cls, given: Mapping[Any, Any]) -> Iterator[Found]:
        if given.get("limit") is not None and given.get("budget") is not None:
            yield ("limit",), wrong("stands beside mix.budget", "give one of them")
        sources = {name: with_defaults(name, as_mapping(entry)) for name, entry in _entries(given, "sources").items()}
        splits = {name: _outline(split) for name, split in _entries(given, "splits").items()}
        yield from _repeated(sources)
        for name, split in splits.items():
            yield from _misuses(name, ("splits", name, "sources"), split.sources, sources)
            for number, stage in enumerate(split.stages):
                yield from _misuses(name, ("splits", name, "stages", number, "sources"), stage.sources, sources)
        trained = {source for name, split in splits.items() if name != TEST for source in split.source_names()}
        against = as_mapping(given.get("decontaminate")).get("against")
        for source in against if isinstance(against, list | tuple) else [against]:
            if isinstance(source, str) and (source in trained or source not in sources):
                what = f"names {source}, which {'a split trains on' if source in trained else 'the mix does not have'}"
                yield ("decontaminate", "against"), wrong(what, "name sources of the mix that no split trains on")


def _entries(mix: Mapping[Any, Any], key: str) -> Mapping[str, Any]:
    return {str(name): entry for name, entry in as_mapping(mix.get(key)).items()}


def _repeated(sources: Mapping[str, Mapping[str, Any]]) -> Iterator[Found]:
    """Sources that read the same rows as one before them."""
    seen: list[tuple[str, Any]] = []
    for name, entry in sources.items():
        if twin := next((other for other, rows in seen if rows == rows_read(entry)), None):
            yield ("sources", name), wrong(f"reads the same rows as {twin}", "name a source once, with one weight")
        seen.append((name, rows_read(entry)))


def _misuses(
    split: str, place: tuple[int | str, ...], weights: Iterable[str], sources: Mapping[str, Mapping[str, Any]]
) -> Iterator[Found]:
    """Why a split cannot draw from the sources that it names at `place`."""
    known = split in split_names()
    for name in weights:
        if name not in sources:
            remedy = nearest(name, sources, "add it to mix.sources")
            yield (*place, name), wrong(f"uses source {name!r}, which the mix does not have", remedy)
        elif known and (kind := KINDS.get(sources[name]["from"])) and (use := use_of(split)) not in kind.uses:
            what = f"uses {name} for {use}; it is only for {', '.join(kind.uses)}"
            yield (*place, name), wrong(what, "take it out of this split")


def _ungraded_sources(given: Mapping[Any, Any]) -> Iterator[Problem]:
    """Sources of graded splits that none of our graders is for."""
    sources = _entries(given, "sources")
    graded = [
        split for name, split in _entries(given, "splits").items() if name in split_names() and row_kind(name).is_graded
    ]
    for name in dict.fromkeys(name for split in graded for name in sorted(_outline(split).source_names())):
        entry = with_defaults(name, as_mapping(sources.get(name)))
        data_source = entry["data_source"] if name in sources and entry["from"] in KINDS else None
        try:
            if isinstance(data_source, str):
                resolve(data_source)
        except UnknownSource as error:
            remedy = "set data_source to a known one, such as math/NAME, or add reward=FILE.py:NAME"
            yield Problem(f"mix.sources.{name}.data_source", str(error), remedy)


def parse(config: Mapping[str, Any], any_source: bool = False) -> Mix:
    """Check a mix configuration. With `any_source` rows may be of sources that none of our graders is for.

    Raises DataError with every problem in it."""
    ungraded = [] if any_source else list(_ungraded_sources(config))
    try:
        mix = Mix.model_validate(dict(config))
    except ValidationError as error:
        raise DataError(*declaration.problems_in(error, "mix"), *ungraded) from None
    if ungraded:
        raise DataError(*ungraded)
    return mix
