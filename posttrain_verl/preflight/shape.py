"""The form of the tree: nodes where VeRL has nodes, numbers where it has numbers.

The other checks read the tree as VeRL does, so they run only on one of VeRL's form.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from posttrain_verl.compose import Composed, plain, verl_tree
from posttrain_verl.problem import Problem
from posttrain_verl.verl_keys import is_free_form

# Numbers by default that take a word too: "after_each_epoch" (verl.trainer.sft_trainer_ray).
ALSO_WORDS = frozenset({"trainer.save_freq", "trainer.test_freq"})


def check(composed: Composed) -> list[Problem]:
    """Every place where the form of the tree is not VeRL's."""
    return list(_compare(plain(composed.verl), verl_tree(composed.stage, composed.choices)))


def _compare(node: dict[str, Any], known: dict[str, Any], path: str = "") -> Iterator[Problem]:
    for key, theirs in known.items():
        here = f"{path}.{key}" if path else str(key)
        if key not in node:
            if isinstance(theirs, dict) and theirs:
                yield Problem(f"{here} was removed, and VeRL reads it", f"leave out ~{here}")
        elif isinstance(node[key], dict) and isinstance(theirs, dict):
            if not is_free_form(here):
                yield from _compare(node[key], theirs, here)
        else:
            yield from _compare_value(node[key], theirs, here)


def _compare_value(ours: Any, theirs: Any, path: str) -> Iterator[Problem]:
    """Null and interpolations may stand for anything."""
    if _is_open(ours) or _is_open(theirs):
        return
    if isinstance(theirs, dict):
        yield Problem(f"{path}={ours} is a value where VeRL has keys", f"it has {', '.join(theirs)}")
    elif isinstance(ours, dict):
        yield Problem(f"{path} has keys below it where VeRL has a value", f"VeRL's own is {path}={theirs}")
    elif isinstance(theirs, bool) and not isinstance(ours, bool):
        yield Problem(f"{path}={ours} is neither true nor false", f"VeRL's own is {path}={str(theirs).lower()}")
    elif _is_number(theirs) and not _is_number(ours) and path not in ALSO_WORDS:
        yield Problem(f"{path}={ours} is no number", f"VeRL's own is {path}={theirs}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_open(value: Any) -> bool:
    return value is None or (isinstance(value, str) and ("${" in value or value == "???"))
