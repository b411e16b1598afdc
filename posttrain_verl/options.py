"""The options of a verb that composes no recipe: words `key=value` over the verb's defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from posttrain_verl.problem import Problem


def read(verb: str, words: Sequence[str], defaults: Mapping[str, str]) -> tuple[dict[str, str], list[Problem]]:
    """Every option with the value that the last of its words gives it, and a problem for each word that is none."""
    given, problems = dict(defaults), []
    for word in words:
        key, equals, value = word.partition("=")
        if key in defaults and equals:
            given[key] = value
        else:
            known = ", ".join(f"{key}=" for key in defaults)
            problems.append(Problem(f"{word} is no option of {verb}", f"it takes {known}"))
    return given, problems
