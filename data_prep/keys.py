"""Read keys out of mappings, with every problem kept."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from data_prep.errors import Problem

_LARGEST = 2**63 - 1


class Reader:
    """Checks values one by one; a wrong one becomes a problem and a harmless value to go on with."""

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

    def known(self, value: Iterable[str], allowed: Iterable[str], where: str) -> None:
        allowed = list(allowed)
        for key in value:
            if key not in allowed:
                near = difflib.get_close_matches(str(key), allowed, 1)
                hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(allowed)}"
                self.add(f"{where}.{key}", "is not a known key", hint)

    def number(self, value: Any, where: str, least: float = 0, *, finite: bool = True) -> Any:
        good = not isinstance(value, bool) and isinstance(value, int | float) and value >= least
        if not good or (finite and not math.isfinite(value)):
            self.add(where, f"is {value!r}, not a number of at least {least:g}", "give a number")
            return max(least, 0)
        return value

    def whole(self, value: Any, where: str, least: int = 0) -> int:
        good = not isinstance(value, bool) and isinstance(value, int | float) and least <= value <= _LARGEST
        if not good or value != int(value):
            self.add(where, f"is {value!r}, not a whole number of at least {least}", "give a whole number")
            return least
        return int(value)

    def names(self, value: Any, where: str) -> tuple[str, ...]:
        listed = (value,) if isinstance(value, str) else value
        if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
            self.add(where, f"is {value!r}, not a list of names", "write [name, ...]")
            return ()
        return tuple(listed)
