"""Everything that can fail before time is spent: one module a family of checks, all problems at once."""

from __future__ import annotations

from collections.abc import Callable, Container

from posttrain_verl.compose import Composed
from posttrain_verl.preflight import batch, data, disk, keys, model, run_folder, schedule, shape
from posttrain_verl.problem import InputError, Problem

CHECKS: dict[str, Callable[[Composed], list[Problem]]] = {
    "keys": keys.check,
    "shape": shape.check,
    "model": model.check,
    "data": data.check,
    "batch": batch.check,
    "schedule": schedule.check,
    "disk": disk.check,
    "run_folder": run_folder.check,
}


def check(composed: Composed, skip: Container[str] = ()) -> list[Problem]:
    """What keeps this launch from running, found by every check but those in `skip`, in the order of CHECKS.

    Data of an offline mix and embedded models that are not built yet are no problem: launch builds them. Call again
    after building, and they are checked like any other.
    """
    if malformed := shape.check(composed):  # the checks after it would read nonsense
        return keys.check(composed) + malformed
    return [problem for name, family in CHECKS.items() if name not in skip for problem in family(composed)]


def require(problems: list[Problem], composed: Composed) -> None:
    """Raise `InputError` with all the problems, if there is one."""
    if problems:
        raise InputError(f"recipe '{composed.recipe}' cannot launch", problems)
