"""Declarations by pydantic: models that read plain mappings, and errors that say what is wrong, where, and what to do.

A field's `description` is the remedy for a wrong value. The problems of a mapping are found at once, at every depth: pydantic
reads each field, and `contradictions` finds what is wrong between fields, whatever is wrong with one of them.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ModelWrapValidatorHandler, Strict, ValidationError
from pydantic import model_validator as model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from data_prep.errors import Problem

OWN_NAME = "<name>"  # the key that gives an entry of a mapping its own name; no user writes it
_KEY = "[key]"  # how pydantic marks that the key of a mapping is wrong, not its value
_OURS = "problem"
Found = tuple[tuple[int | str, ...], PydanticCustomError]  # a problem, and its place below a value
# What pydantic finds: what is said about the value, and the remedy of a field that has none of its own.
_SAID = {
    "bool_type": ("is {value!r}", "write true or false"),
    "dict_type": ("is {value!r}, not a mapping", "write `key: value` lines under it"),
    "finite_number": ("is {value!r}, not a number", "give a number"),
    "float_type": ("is {value!r}, not a number", "give a number"),
    "greater_than": ("is {value!r}, not a number above {gt:g}", "give a larger number"),
    "greater_than_equal": ("is {value!r}, not a number of at least {ge:g}", "give a larger number"),
    "int_type": ("is {value!r}, not a whole number", "give a whole number"),
    "less_than": ("is {value!r}, not a whole number below {lt}", "give a smaller number"),
    "missing": ("is missing", "add it"),
    "model_type": ("is {value!r}, not a mapping", "write `key: value` lines under it"),
    "pattern_regex": ("{value!r} is not a regular expression", "correct it"),
    "pattern_type": ("{value!r} is not a regular expression", "correct it"),
    "string_type": ("is {value!r}, not a text", "write a text"),
    "tuple_type": ("is {value!r}, not a list", "write [value, ...]"),
}


Number = Annotated[float, Strict()]
_WHOLE = BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)
Whole = Annotated[int, _WHOLE, Strict(), Field(ge=0, lt=2**63)]
Positive = Annotated[Whole, Field(ge=1)]


class Declaration(BaseModel):
    """A mapping whose keys are all known. Null stands for a mapping without keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def contradictions(cls, given: Mapping[Any, Any]) -> Iterator[Found]:
        """What is wrong between keys. `given` is the mapping as the user wrote it: a value may have any type."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _say_what_is_wrong(cls, value: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        contradictions = list(cls.contradictions(as_mapping(value)))
        try:
            made = read({} if value is None else value)
        except ValidationError as error:
            refuse([*((each["loc"], cls._said(each)) for each in error.errors(include_url=False)), *contradictions])
            raise
        refuse(contradictions)
        return made

    @classmethod
    def _said(cls, error: ErrorDetails) -> PydanticCustomError:
        """One of pydantic's errors, as a problem; a problem stays as it is."""
        kind, place, value, facts = error["type"], error["loc"], error["input"], error.get("ctx", {})
        if kind == _OURS:
            return wrong(**facts)
        fields = {str(field.validation_alias or name): field for name, field in cls.model_fields.items()}
        if kind == "extra_forbidden":
            return unknown(place[-1], [name for name in fields if name != OWN_NAME])
        remedy = fields[str(place[0])].description if place and place[0] in fields else None
        if kind == "literal_error":
            names = re.findall(r"'([^']*)'", facts["expected"])
            return wrong(f"is {value!r}", remedy or nearest(value, names, f"write one of {', '.join(names)}"))
        what, usual = _SAID.get(kind, ("is {value!r}", "correct it"))
        return wrong(what.format(value=value, **facts), remedy or usual)


def wrong(what: str, remedy: str) -> PydanticCustomError:
    """What a validator raises."""
    return PydanticCustomError(_OURS, "{what}", {"what": what, "remedy": remedy})


def refuse(found: Iterable[Found]) -> None:
    """Raise the problems that a validator found, each with its place below the value. Without one nothing is raised."""
    lines: list[InitErrorDetails] = [{"type": each, "loc": place, "input": None} for place, each in found]
    if lines:
        raise ValidationError.from_exception_data("", lines)


def must(good: Callable[[Any], Any], remedy: str, what: str = "is {value!r}") -> Callable[[Any], Any]:
    """A validator that refuses a value for which `good` is false."""

    def check(value: Any) -> Any:
        if not good(value):
            raise wrong(what.format(value=value), remedy)
        return value

    return check


def one_of(names: Collection[str]) -> Callable[[str], str]:
    """A validator of keys that are one of `names`."""

    def check(name: str) -> str:
        if name not in names:
            raise unknown(name, names)
        return name

    return check


def unknown(key: Any, known: Iterable[str]) -> PydanticCustomError:
    return wrong("is not a known key", nearest(key, known, f"known keys: {', '.join(known)}"))


def nearest(name: Any, known: Iterable[str], otherwise: str) -> str:
    """The remedy for a name that is not known: the one that is near, if there is one."""
    near = difflib.get_close_matches(str(name), known, 1)
    return f"did you mean {near[0]}?" if near else otherwise


def as_mapping(value: Any) -> Mapping[Any, Any]:
    """A mapping as it is given; anything else has no keys."""
    return value if isinstance(value, Mapping) else {}


def named(entries: Any) -> Any:
    """A mapping whose entries hold their own names. Null stands for a mapping or an entry without keys."""
    if not isinstance(entries, Mapping):
        return {} if entries is None else entries
    return {
        str(name): {**(entry or {}), OWN_NAME: str(name)} if isinstance(entry, Mapping | None) else entry
        for name, entry in entries.items()
    }


def listed(value: Any) -> Any:
    """One name or a list of names, as a list; null stands for an empty one."""
    names = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise wrong(f"is {value!r}, not a list of names", "write [name, ...]")
    return names


def problems_in(error: ValidationError, root: str = "") -> list[Problem]:
    """Every problem that a declaration found, once, with its place below `root`."""
    found = []
    for each in error.errors(include_url=False):
        said = each["ctx"]
        keys = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in each["loc"] if key != _KEY)
        found.append(Problem(f"{root}{keys}".removeprefix("."), said["what"], said["remedy"]))
    return list(dict.fromkeys(found))
