"""Where rows come from: the sources by family, each declared below a real example row."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, Literal

from data_prep.declaration import OWN_NAME, Found, nearest, wrong
from data_prep.sources.source import Source, SourceSpec

MODULES = ("code_exercises", "columns", "generated", "math_benchmarks", "math_training", "synthesized")
_FOUND = [each for name in MODULES for each in vars(import_module(f"data_prep.sources.{name}")).values()]
KINDS: Mapping[str, Source] = {each.kind: each for each in _FOUND if isinstance(each, Source)}


_COMMON = {str(field.validation_alias or name) for name, field in SourceSpec.model_fields.items()} - {"from"}


class _OfUnknownKind(SourceSpec, extra="allow"):
    """What can be said of a source whose kind does not exist."""

    data_source: str = ""
    ability: Literal["math", "code"] = "math"

    @classmethod
    def contradictions(cls, given: Mapping[Any, Any]) -> Iterator[Found]:
        kind = given["from"]
        remedy = nearest(kind, KINDS, f"known: {', '.join(KINDS)}")
        yield (), wrong(f"reads from {kind!r}, which is not a source", remedy)


def with_defaults(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A source of a mix, with what its kind says where the mix does not."""
    kind = str(entry.get("from", name))
    defaults: dict[str, Any] = {}
    if known := KINDS.get(kind):
        data_source = known.data_source.replace("{family}", str(entry.get("family")))
        defaults = {"data_source": data_source, "ability": known.ability}
    return {**defaults, **entry, OWN_NAME: name, "from": kind}


def spec_of(name: str, entry: Mapping[str, Any]) -> SourceSpec:
    """A source of a mix as its kind declares it. Raises an error of pydantic's."""
    given = with_defaults(name, entry)
    declared = KINDS[given["from"]].spec if given["from"] in KINDS else _OfUnknownKind
    return declared.model_validate(given)


def rows_read(given: Mapping[str, Any]) -> dict[str, Any]:
    """What two sources that read the same rows have in common, of a source `with_defaults`."""
    options = {key: value for key, value in given.items() if key not in _COMMON}
    with suppress(KeyError, TypeError, ValueError):  # no path, or one that no file can have
        options["path"] = os.path.realpath(options["path"])
    return options


__all__ = ["KINDS", "Source", "SourceSpec", "rows_read", "spec_of", "with_defaults"]
