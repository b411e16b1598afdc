"""The command line of every verb. A verb declares its fields once, and they make its parser, its errors and its help.

A field is an argument `key=value`, or an option such as `--json` or `-n LINES`. They come in any order, and the last value of a
key counts. One `InputError` holds all that is wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar, cast, dataclass_transform, get_args, get_origin
from typing import get_type_hints as type_hints

from posttrain_verl.terminal import console
from posttrain_verl.terminal.problem import InputError, Problem, exit_code, one_of

WIDTH = 100
Names = Callable[[Mapping[str, str]], Sequence[str]]  # of the values so far, e.g. the folder of the runs
DataField = dataclasses.Field


@dataclass_transform(frozen_default=True)
@dataclasses.dataclass(frozen=True, repr=False)
class Verb:
    """What a verb takes. The first paragraph of its docstring says what the verb does."""

    EXAMPLE: ClassVar[str]
    TITLE: ClassVar[str] = "the command line cannot be read"
    EXITS: ClassVar[str] = "0 done, 2 the input is wrong, 130 interrupted"
    USAGE: ClassVar[str] = "[key=value ...]"  # of the usage line, before the options
    OTHERS: ClassVar[str] = ""  # what arguments that are not fields mean
    TAKES: ClassVar[str] = "(?!)"  # the pattern of these arguments; the default matches none
    ANY_KEY: ClassVar[bool] = False  # then `--max-steps 10` is max_steps=10, whatever the key
    ONLY_PRINTS: ClassVar[bool] = False  # then it is not a failure when a reader of the output (`| head`) stops reading
    PROGRESS: ClassVar[Literal["stdout", "stderr"]] = "stdout"  # where lines of progress go
    MAIN: ClassVar[str] = ""  # the key that an argument without a key is likely meant for
    RESUME: ClassVar[str] = ""  # how work that failed or was interrupted continues
    NAMES: ClassVar[dict[str, Names]] = {}  # how to list the values of keys that are not fields

    arguments: Sequence[str] = ()  # those that are not fields, in their order

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True, repr=False)(cls)

    @classmethod
    def name(cls) -> str:
        """What the verb is called, e.g. `first_gpu_hour` for FirstGpuHour."""
        return re.sub("(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def more_rows(cls) -> list[tuple[str, str, str, str]]:
        """Rows of the help for arguments that another file declares: key, type, default, help."""
        return []

    @classmethod
    def names(cls) -> dict[str, Names]:
        """For the keys whose values have names: how to list these."""
        return cls.NAMES | {key_of(each): each.metadata["names"] for each in fields(cls) if each.metadata["names"]}

    def problems(self) -> Iterator[Problem]:
        """What is wrong with fields that are right one by one."""
        yield from ()


V = TypeVar("V", bound=Verb)


def key(default: Any, text: str, alias: str | None = None, *, shown: str | None = None, remedy: str | None = None,
        names: Names | None = None, old: str | None = None) -> Any:  # fmt: skip
    """A field given as `key=value`. With a `remedy` it is required. The help shows `shown` in place of its default. `old` is the
    key's name in an earlier version."""
    return dataclasses.field(default=default, metadata={"text": text, "key": alias, "shown": "required" if remedy else shown,
                                                        "remedy": remedy, "names": names, "old": old, "flags": ()})  # fmt: skip


def option(*flags: str, text: str, default: Any = False) -> Any:
    """A field given as an option, `-f` or `--follow`. Unless its type is bool, it takes a value."""
    return dataclasses.field(default=default, metadata={"text": text, "key": None, "shown": None, "remedy": None, "names": None,
                                                        "old": None, "flags": flags})  # fmt: skip


def fields(declared: type[Verb]) -> list[DataField[Any]]:
    """The fields in the order of the help: keys, keys of `posttrain.`, options."""
    own = [each for each in dataclasses.fields(cast(Any, declared)) if each.name != "arguments"]
    return sorted(own, key=lambda each: (bool(each.metadata["flags"]), "." in key_of(each)))


def key_of(field: DataField[Any]) -> str:
    return field.metadata["key"] or field.name


def obstacle(folder: Path) -> Path | None:
    """The file that prevents a folder from being made; None where the folder exists or can be made."""
    folder = folder.expanduser().absolute()
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return None if there.is_dir() else there


def _folder(value: str) -> tuple[str, str] | None:
    found = obstacle(Path(value))
    return (f": {found} is a file", "name a folder") if found else None


def _file(value: str) -> tuple[str, str] | None:
    if value and Path(value).expanduser().is_dir():
        return " is a folder", "name a file in it"
    return _folder(str(Path(value).expanduser().absolute().parent))


OutFile = Annotated[str, _file]  # a function beside a type says what is wrong with a value, and the remedy
OutFolder = Annotated[str, _folder]


def plain(text: str) -> Any:
    """A value as yaml reads it, e.g. a number. Text that is not yaml stays as it is."""
    from omegaconf import OmegaConf  # verbs that look at runs should not pay for it
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.from_dotlist([f"it={text}"])))["it"]
    except (YAMLError, OmegaConfBaseException):
        return text


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def read(declared: type[V], arguments: Sequence[str]) -> V:
    """The verb with its arguments. Raises InputError with every problem of the arguments."""
    every = fields(declared)
    keys = {key_of(each): each.name for each in every if not each.metadata["flags"]}
    short = {each.name: each.name for each in every if "." in key_of(each)}  # runs_dir for posttrain.runs_dir
    short |= {each.metadata["old"]: each.name for each in every if each.metadata["old"]}
    known = [*(f"{key}=" for key in keys), *(flag for each in every for flag in each.metadata["flags"])]
    given: dict[str, Any] = {}
    typed: dict[str, str] = {}  # the first argument of a key: it may have several names
    others: list[str] = []
    problems: list[Problem] = []
    flags = {flag for each in every for flag in each.metadata["flags"]}
    arguments = _flags_as_keys(arguments, {*keys, *short, *declared.names()}, flags if declared.ANY_KEY else None)
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for each in every:
        if flags := each.metadata["flags"]:
            parser.add_argument(*flags, dest=each.name, action="store_true" if each.default is False else "store")
    try:
        found, rest = parser.parse_known_args([argument for argument in arguments if argument != "--"])
        options = vars(found)
    except ValueError as error:
        problems.append(Problem(str(error), f"posttrain {declared.name()} --help shows the options"))
        options, rest = {}, [argument for argument in arguments if not argument.startswith("-")]
    for argument in rest:
        key, equals, value = argument.partition("=")
        is_option = argument.startswith("-")
        if equals and (name := keys.get(key) or short.get(key)):
            before = typed.setdefault(name, argument)
            if before.partition("=")[0] != key and given[name] != value:
                problems.append(Problem(f"{before} and {argument} are two names of one key", "give one of them"))
            given[name] = value
        elif not is_option and re.match(declared.TAKES, argument):
            others.append(argument)
        else:
            nearest = one_of(key if is_option else f"{key}=", known)
            if declared.MAIN and not equals and not is_option:
                given.setdefault(declared.MAIN, argument)
                nearest = f"did you mean {declared.MAIN}={argument}? {nearest}"
            problems.append(Problem(f"'{argument}' is not an option of {declared.name()}", nearest))
    given |= options
    for each in every:
        _check(declared, each, given, problems)
    asked = declared(arguments=tuple(others), **given)
    problems += asked.problems()
    if problems:
        raise InputError(declared.TITLE, problems)
    return asked


def _flags_as_keys(arguments: Sequence[str], keys: set[str], options: set[str] | None = None) -> list[str]:
    """The arguments with keys that are written as flags, `--run g2` or `--run=g2`, in the form `run=g2`.

    With `options`, the flags that are options, every other flag with a value is a key.
    """
    found: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        has_value = bool(equals) or bool(rest and "=" not in rest[0] and not rest[0].startswith("-"))
        is_any = options is not None and argument.partition("=")[0] not in options and bool(key) and has_value
        if not argument.startswith("--") or not (key in keys or is_any):
            found.append(argument)
        else:
            found.append(f"{key}={value if equals else rest.pop(0) if rest else ''}")
    return found


def _check(declared: type[Verb], field: DataField[Any], given: dict[str, Any], problems: list[Problem]) -> None:
    """Give the value of a field its type. A missing, empty or wrong value becomes a problem, and its default stays."""
    key, value, default = key_of(field), given.get(field.name), field.default
    if field.metadata["remedy"] and not value:
        problems.append(Problem(f"{key}= is missing", field.metadata["remedy"]))
    elif value == "" and default != "":
        remedy = "leave it out, or give one" if default is None else f"leave it out for {key}={default}"
        problems.append(Problem(f"{key}= has no value", remedy))
        del given[field.name]
    elif isinstance(value, str) and field.type not in ("str", "str | None"):
        try:
            given[field.name] = _typed(type_of(declared, field), value)
        except ValueError as error:
            problems.append(_problem(declared, field, value, error))
            del given[field.name]


def _typed(wanted: Any, value: str) -> Any:
    """The value, converted to its type. Raises ValueError: pydantic's, or one with what is wrong and the remedy."""
    for says in getattr(wanted, "__metadata__", ()):
        if callable(says) and (wrong := says(value)):
            raise ValueError(*wrong)
    if getattr(wanted, "__origin__", None) is str:
        return value
    from pydantic import TypeAdapter  # verbs whose arguments are text should not pay for it

    return TypeAdapter(wanted).validate_python(value.lower() if value.lower() in choices(wanted) else value)


def _problem(declared: type[Verb], field: DataField[Any], value: str, error: Any) -> Problem:
    """The problem of a value that does not have its type."""
    key, wanted, flags = key_of(field), type_of(declared, field), field.metadata["flags"]
    what = f"{flags[-1]} {value}" if flags else f"{key}={value}"
    if not hasattr(error, "errors"):
        return Problem(what + error.args[0], error.args[1])
    limits, known = error.errors()[0].get("ctx", {}), choices(wanted)
    if bool in _parts(wanted):
        return Problem(f"{what} is neither true nor false", f"{key}=true, or {key}=false")
    if known:
        return Problem(f"{what} is unknown", one_of(value, known, "" if flags else f"{key}="))
    if "ge" in limits:
        return Problem(f"{what} is too small", f"at least {limits['ge']}")
    if "le" in limits:
        return Problem(f"{what} is too large", f"at most {limits['le']}")
    name = "whole number" if int in _parts(wanted) else "number"
    return Problem(f"{what} is not a {name}", f"give a {name}, or leave it out")


def type_of(declared: type[Verb], field: DataField[Any]) -> Any:
    return type_hints(declared, include_extras=True)[field.name]


def choices(wanted: Any) -> list[str]:
    """The values of a type that has a fixed set of them."""
    if bool in _parts(wanted):
        return ["true", "false"]
    return [str(each) for part in _parts(wanted) if get_origin(part) is Literal for each in get_args(part)]


def _parts(wanted: Any) -> list[Any]:
    """The types that a type consists of. For `Annotated[int, Ge(1)] | None` they include `int`."""
    return [wanted, *(part for each in get_args(wanted) for part in _parts(each))]


def main(declared: type[V], work: Callable[[V], int], argv: Sequence[str] | None = None) -> int:
    """Read the arguments (those of the process, if none are given), do the work, and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        show_help(declared)
        return 0
    with console.shown(console.printer(getattr(sys, declared.PROGRESS))):
        try:
            code = exit_code(lambda: work(read(declared, arguments)), "--json" in arguments, declared.RESUME)
        except BrokenPipeError:
            _discard_output()
            if declared.ONLY_PRINTS:
                return 0
            raise
        try:
            sys.stdout.flush()  # now, and not at the end of the process, where a closed pipe is a traceback
        except BrokenPipeError:
            _discard_output()
        return code


def _discard_output() -> None:
    """Send what is still to be printed nowhere, since its reader is gone."""
    with suppress(OSError, ValueError):  # a stream without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_help(declared: type[Verb]) -> None:
    """One screen: what the verb does, an example, a table of its fields, and its exit codes."""
    from rich.console import Console  # nobody else should pay for it
    from rich.table import Table

    width = min(Console().width, WIDTH) if sys.stdout.isatty() else WIDTH
    out = Console(width=width, highlight=False, markup=False)
    about = " ".join((declared.__doc__ or "").split("\n\n")[0].split())
    out.print(f"usage: python -m posttrain_verl.{declared.name()} {declared.USAGE} [options]\n\n{about}")
    out.print(f"example: python -m posttrain_verl.{declared.name()} {declared.EXAMPLE}\n")
    table = Table("", "type", "default", "", box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    rows = [_row(declared, each) for each in fields(declared)]
    keys = [row for row in rows if not row[0].startswith("-")]
    for row in [*keys, *declared.more_rows(), *rows[len(keys) :]]:
        table.add_row(*row)
    out.print(table)
    out.print()
    if declared.OTHERS:
        out.print(f"other arguments: {declared.OTHERS}")
    out.print(f"exit codes: {declared.EXITS}")


def _row(declared: type[Verb], field: DataField[Any]) -> tuple[str, str, str, str]:
    about, default = field.metadata, field.default
    shown = ", ".join(about["flags"] or [f"{key_of(field)}="])
    if about["flags"] and default is False:
        return shown, "", "", about["text"]
    wanted = type_of(declared, field)
    kinds = {bool: "bool", int: "int", float: "float", _file: "file", _folder: "folder"}
    named = [name for kind, name in kinds.items() if kind in _parts(wanted)]
    text = about["shown"] or (str(default).lower() if default not in ("", None) else "")
    return shown, named[0] if named else "|".join(choices(wanted)) or "text", text, about["text"]
