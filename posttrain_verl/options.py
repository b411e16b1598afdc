"""The command line of a verb: its parser, and the words `key=value` of a verb that composes no recipe."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from posttrain_verl.problem import Problem, one_of


def parser(verb: str, about: str | None, words: str = "key=value") -> argparse.ArgumentParser:
    """The parser of `python -m posttrain_verl.<verb> [words ...]`; `about` is the docstring of the verb's module.

    The words are left to the verb, which names all that is wrong with them at once.
    """
    made = argparse.ArgumentParser(f"python -m posttrain_verl.{verb}", description=about, allow_abbrev=False,
                                   formatter_class=_Help)  # fmt: skip
    made.add_argument("words", nargs="*", metavar=words, help="as shown above; the last word of a key counts")
    return made


def output(key: str, value: str) -> list[Problem]:
    """A problem if no file can be written at `value`, seen before the work is done; "" asks for none."""
    file = Path(value).expanduser().absolute()
    if value and file.is_dir():
        return [Problem(f"{key}={value} is a folder", "name a file in it")]
    return folder(key, str(file.parent))


class _Help(argparse.HelpFormatter):
    """Fills each paragraph of a docstring to the terminal; one that is indented is a table, and stays as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip().split("\n\n")
        return "\n\n".join(each if each.startswith(" ") else textwrap.fill(each, width, break_on_hyphens=False)
                           for each in paragraphs)  # fmt: skip


def folder(key: str, value: str) -> list[Problem]:
    """A problem if the folder `value` is not there and cannot be made, since something on its way is a file."""
    place = Path(value).expanduser().absolute()
    there = next(each for each in (place, *place.parents) if each.exists())
    return [] if there.is_dir() else [Problem(f"{key}={value}: {there} is a file", "name a folder")]


def plain(text: str) -> Any:
    """A value as yaml reads it, e.g. a number; text that is no yaml stays as it is."""
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.from_dotlist([f"it={text}"])))["it"]
    except (YAMLError, OmegaConfBaseException):
        return text


def read(verb: str, words: Sequence[str], defaults: Mapping[str, str]) -> tuple[dict[str, str], list[Problem]]:
    """Every option with the value that the last of its words gives it, and a problem for each word that is none.

    Only an option whose default is empty may be given empty.
    """
    given, problems = dict(defaults), []
    for word in words:
        key, equals, value = word.partition("=")
        if key in defaults and equals:
            given[key] = value
        else:
            known = [f"{key}=" for key in defaults]
            problems.append(Problem(f"'{word}' is no option of {verb}", one_of(f"{key}=", known)))
    empty = [key for key, default in defaults.items() if default and not given[key]]
    problems += [Problem(f"{key}= has no value", f"leave it out for {key}={defaults[key]}") for key in empty]
    return given, problems
