"""The form and the values of the config: keys that VeRL does not know, values of the wrong type, unregistered names, and
numbers out of range.

VeRL ignores unknown keys and does not check types when it builds its dataclasses, so a mistake breaks later, on a worker.
The other checks read the config as VeRL does. They run only on a config that has VeRL's form.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterator
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from posttrain_verl.compose import our_tree, to_plain_dict, verl_tree, verl_version
from posttrain_verl.terminal.problem import Problem, one_of
from posttrain_verl.verl.allowed_values import allowed_names, allowed_range, imported_packages, refuses_null
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.other_names import all_paths, nearest_key, nearest_path
from posttrain_verl.verl.renamed import current_key, iterate_leaves
from posttrain_verl.verl.schema import (
    accepts_value,
    compared_values,
    dataclass_fields,
    declared_type,
    describe_annotation,
    is_free_form,
    is_read_unlisted,
)
from posttrain_verl.verl.settings import RewardSettings, format_value

ABSENT = object()  # stands for VeRL's own value of a key that only a dataclass has


def check_shape(composed: Composed) -> list[Problem]:
    """Every place where the form of the config is not VeRL's."""
    try:
        ours = composed.resolved
    except OmegaConfBaseException as error:
        what = f"an interpolation cannot be resolved: {' '.join(str(error).split())}"
        return [Problem(what, "correct the key, or give a plain value")]
    return list(_compare_nodes(ours, verl_tree(composed.stage, composed.choices)))


def _compare_nodes(
    node: dict[str, Any], known: dict[str, Any], path: str = "", declared: str = ""
) -> Iterator[Problem]:
    """`declared` names the dataclass of a node that has no `_target_`."""
    target = str(known.get("_target_") or node.get("_target_") or declared)
    fields = dataclass_fields(target)
    more = [key for key in node if key in fields or (not known and isinstance(node[key], dict))]
    for key in [*known, *(key for key in more if key not in known)]:
        here = f"{path}.{key}" if path else str(key)
        theirs, annotation = known.get(key, ABSENT), fields.get(str(key), "")
        if key not in node:
            if (isinstance(theirs, dict) and theirs) or key == "_target_":
                removed = path if key == "_target_" else here
                yield Problem(f"{here} was removed, and VeRL reads it", f"leave out ~{removed}")
        elif isinstance(node[key], dict) and (
            isinstance(theirs, dict) or _takes_keys(declared_type(here) or annotation, theirs)
        ):
            if not is_free_form(here):
                below = theirs if isinstance(theirs, dict) else {}  # an interpolation has led to the node
                # The dataclass that an annotation names, e.g. Optional[MtpConfig], lies beside `target`.
                named = re.search(r"\w+Config\b", annotation)
                beside = f"{target.rpartition('.')[0]}.{named[0]}" if named else ""
                yield from _compare_nodes(node[key], below, here, beside)
        else:
            yield from _compare_value(node[key], theirs, here, annotation)


def _compare_value(ours: Any, theirs: Any, path: str, annotation: str) -> Iterator[Problem]:
    """Compare node or value first, then the declared type, or the type of VeRL's own value."""
    declared, default = declared_type(path) or annotation, f"VeRL's own is {path}={format_value(theirs)}"
    if isinstance(theirs, dict) and (ours is not None or (theirs and not declared)):
        yield Problem(f"{path}={format_value(ours)} is a value where VeRL has keys", f"it has {', '.join(theirs)}")
    elif isinstance(ours, dict) and not _takes_keys(declared, theirs):
        yield Problem(f"{path} has keys below it where VeRL has a value", default)
    elif not isinstance(ours, dict) and not _fits_declaration(ours, theirs, declared):
        kind = describe_annotation(declared or _type_name(theirs))
        article = "a " if kind.startswith(("whole number", "number", "list", "mapping")) else ""
        wrong = "neither true nor false" if kind == "true or false" else f"not {article}{kind}"
        remedy = f"give {kind}" if _is_left_open(theirs) else default
        yield Problem(f"{path}={format_value(ours)} is {wrong}", remedy)


def _takes_keys(declared: str, theirs: Any) -> bool:
    """Whether a mapping may stand here: the declaration says so, or VeRL's yaml leaves it open."""
    return accepts_value(declared, {}) if declared else _is_left_open(theirs)


def _fits_declaration(ours: Any, theirs: Any, declared: str) -> bool:
    """Whether our value fits the declaration, or without one the kind of VeRL's own value.

    Without a declaration a number may stand for a text. Null passes where VeRL's yaml has it or leaves the value to an
    interpolation, whatever the annotation.
    """
    same = ours == theirs and isinstance(ours, bool) == isinstance(theirs, bool)  # True == 1
    if same or (ours is None and theirs is not ABSENT and _is_left_open(theirs)):
        return True
    if declared:
        return accepts_value(declared, ours)
    if isinstance(theirs, str):
        return _is_left_open(theirs) or ours is None or isinstance(ours, str | int | float)
    return accepts_value(_type_name(theirs), ours)


def _type_name(value: Any) -> str:
    return type(value).__name__ if isinstance(value, bool | int | float | str | list) else "Any"


def _is_left_open(value: Any) -> bool:
    return value is None or value is ABSENT or (isinstance(value, str) and ("${" in value or value == "???"))


REWARD_NODE = RewardSettings.key("reward_path").rpartition(".")[0]


OUR_NODES = ("preference",)  # at the top of a config beside those of VeRL


def check_keys(composed: Composed) -> list[Problem]:
    """Every key of the launch that VeRL (or we) would ignore, with the nearest key that is read."""
    config, known = to_plain_dict(composed.verl), verl_tree(composed.stage, composed.choices)
    problems, dead_keys = [], composed.stage.dead_keys
    dead = {key.split(".")[0] for key in dead_keys}
    given = [leaf for root in sorted(dead) for leaf in iterate_leaves(config.get(root), root)]
    for path, value in given:
        if value is not None:
            prefix = max((key for key in dead_keys if path == key or path.startswith(f"{key}.")), key=len)
            what = f"{path} is a legacy key: VeRL {verl_version()} composes it and ignores it"
            live = current_key(dead_keys[prefix] + path[len(prefix) :])
            problems.append(Problem(what, f"use {live}={value}"))
    others = {key: value for key, value in config.items() if key not in dead}
    candidates = [path for path in all_paths(known) if path.split(".")[0] not in dead]
    for path in _unknown_paths(others, known):
        near = nearest_key(path, composed.settings, candidates)
        renamed = current_key(path)
        if composed.settings.reward is None and path.startswith(REWARD_NODE):
            problems.append(Problem(f"{path} is for RL: {composed.stage.name.upper()} takes no reward", "leave it out"))
            continue
        remedy = f"VeRL calls it {renamed} now" if renamed != path else f"did you mean {near}?" if near else "remove it"
        whose = "posttrain_verl" if path.split(".")[0] in OUR_NODES else f"VeRL {verl_version()}"
        problems.append(Problem(f"{path} is not a key of {whose} and would be ignored", remedy))
    known, ours = {"posttrain": our_tree(composed)}, to_plain_dict(composed.posttrain)
    del ours["mix"]  # its keys are more than those of one yaml: `check_mix` knows them
    for path in _unknown_paths({"posttrain": ours}, known):
        hint = f"did you mean {near}? " if (near := nearest_path(path, list(all_paths(known)))) else ""
        problems.append(Problem(f"{path} is not a key of posttrain_verl", f"{hint}docs/config.md lists them"))
    return problems


def _unknown_paths(node: dict[str, Any], known: dict[str, Any], path: str = "", target: str = "") -> Iterator[str]:
    """Paths of the leaves of `node` that neither `known` nor the dataclass `target` has."""
    for key, value in node.items():
        here = f"{path}.{key}" if path else str(key)
        if key in known:
            if isinstance(value, dict) and isinstance(known[key], dict) and not is_free_form(here):
                yield from _unknown_paths(value, known[key], here, str(known[key].get("_target_", "")))
        elif key in (fields := dataclass_fields(target)):
            # A field whose annotation names a dataclass beside `target` has keys of its own. Any other takes all keys.
            inner = f"{target.rpartition('.')[0]}.{fields[key].strip()}"
            if isinstance(value, dict) and dataclass_fields(inner):
                yield from _unknown_paths(value, {}, here, inner)
        elif not is_read_unlisted(here):
            yield from (leaf for leaf, _ in iterate_leaves(value, here))


def check_values(composed: Composed) -> list[Problem]:
    """Every value that is not one of the names, or outside the range, that its key allows."""
    tree = verl_tree(composed.stage, composed.choices)
    theirs, found = dict(iterate_leaves(tree)), list[Problem]()
    for path, value in iterate_leaves(composed.resolved):
        if value == theirs.get(path):
            continue
        if value is None and refuses_null(path):
            found.append(Problem(f"{path}=null is refused by VeRL, profiling or not", f"leave {path} out"))
        known, interval = allowed_names(path), allowed_range(path)
        for each in value if isinstance(value, list) else [] if value is None else [value]:
            if known and str(each) not in known:
                found.append(_unknown_value(path, each, known))
            if interval and isinstance(each, int | float) and not _is_inside(each, interval):
                found.append(Problem(f"{path}={each} is out of range", f"give a value in {interval}"))
    found += _check_compared(composed.resolved, tree, "")
    for key, name, package in imported_packages(composed.settings):
        if importlib.util.find_spec(package) is None:
            what = f"{key} names {name}, and the package {package} is not installed here"
            found.append(Problem(what, f"pip install {package}, or take it out of {key}"))
    return found


def _unknown_value(path: str, value: Any, known: tuple[Any, ...]) -> Problem:
    names = [str(name) for name in known]
    return Problem(f"{path}={value} is not a value that VeRL accepts", one_of(str(value), names))


def _is_inside(number: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    return above and below and math.isfinite(number)


def _check_compared(ours: dict[str, Any], theirs: dict[str, Any], path: str) -> Iterator[Problem]:
    """Fields that a dataclass of VeRL compares with a list when it is made."""
    for field, known in compared_values(str(theirs.get("_target_", ""))).items():
        value, here = ours.get(field), f"{path}.{field}" if path else field
        if value is not None and value not in known and allowed_names(here) is None:
            yield _unknown_value(here, value, known)
    for key, node in theirs.items():
        if isinstance(node, dict) and isinstance(ours.get(key), dict):
            yield from _check_compared(ours[key], node, f"{path}.{key}" if path else str(key))
