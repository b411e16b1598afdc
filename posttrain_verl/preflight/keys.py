"""Keys that VeRL does not know, or knows and ignores: errors, never silence."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from posttrain_verl.compose import Composed, plain, verl_version
from posttrain_verl.preflight import tree
from posttrain_verl.problem import Problem
from posttrain_verl.verl_keys import READ_UNLISTED, dataclass_fields, is_free_form

# Legacy nodes that still compose and that main_ppo ignores, with the live key of each leaf
# (verl.experimental.reward_loop.migrate_legacy_reward_impl, which VeRL 0.9.1 no longer calls).
DEAD = {
    "custom_reward_function": "reward.custom_reward_function",
    "sandbox_fusion": "reward.sandbox_fusion",
    "reward_model.reward_manager": "reward.reward_manager.name",
    "reward_model.num_workers": "reward.num_workers",
    "reward_model.reward_loop_source": "reward.reward_manager.source",
    "reward_model.reward_loop_module_path": "reward.reward_manager.module.path",
    "reward_model.reward_loop_class_name": "reward.reward_manager.module.name",
    "reward_model.model.path": "reward.reward_model.model_path",
    "reward_model.reward_kwargs": "reward.reward_kwargs",
    "reward_model": "reward.reward_model",
}


def check(composed: Composed) -> list[Problem]:
    """Every key of the launch that VeRL (or we) would ignore, with the nearest key that is read."""
    config = plain(composed.verl)
    known = tree.known(composed)
    problems = _dead(config) if composed.stage == "rl" else []
    live = {
        key: value for key, value in config.items() if composed.stage != "rl" or key.split(".")[0] not in _DEAD_ROOTS
    }
    candidates = [path for path in _paths(known) if path.split(".")[0] not in _DEAD_ROOTS]
    problems += [_unknown(path, candidates) for path in _unknown_paths(live, known)]
    ours, known_ours = {"posttrain": plain(composed.posttrain)}, {"posttrain": tree.ours(composed)}
    return problems + [_unknown_ours(path, list(_paths(known_ours))) for path in _unknown_paths(ours, known_ours)]


_DEAD_ROOTS = {key.split(".")[0] for key in DEAD}


def _dead(tree: dict[str, Any]) -> list[Problem]:
    problems = []
    for root in sorted(_DEAD_ROOTS):
        for path, value in _leaves(tree.get(root), root):
            if value is not None:
                what = f"{path} is a legacy key: VeRL {verl_version()} composes it and ignores it"
                problems.append(Problem(what, f"use {_live_key(path)}={value}"))
    return problems


def _live_key(path: str) -> str:
    prefix = max((key for key in DEAD if path == key or path.startswith(key + ".")), key=len)
    return DEAD[prefix] + path[len(prefix) :]


def _unknown(path: str, candidates: list[str]) -> Problem:
    what = f"{path} is no key of VeRL {verl_version()} and would be ignored"
    return Problem(what, f"did you mean {near}?" if (near := _nearest_path(path, candidates)) else "remove it")


def _unknown_ours(path: str, candidates: list[str]) -> Problem:
    hint = f"did you mean {near}? " if (near := _nearest_path(path, candidates)) else ""
    return Problem(f"{path} is no key of posttrain_verl", f"{hint}docs/config.md lists them")


def _nearest_path(path: str, candidates: list[str]) -> str | None:
    """The key nearest to `path`: the same leaf at another place first, then the nearest spelling."""
    leaf = path.rpartition(".")[2]
    same_leaf = [candidate for candidate in candidates if candidate.rpartition(".")[2] == leaf]
    moved = difflib.get_close_matches(path, same_leaf, n=1, cutoff=0.5)
    near = moved or difflib.get_close_matches(path, candidates, n=1)
    return near[0] if near else None


def _unknown_paths(node: dict[str, Any], known: dict[str, Any], path: str = "", target: str = "") -> Iterator[str]:
    """Paths of the leaves of `node` that neither `known` nor the dataclass `target` has."""
    for key, value in node.items():
        here = f"{path}.{key}" if path else str(key)
        if key in known:
            yield from _below(value, known[key], here)
        elif key in (fields := dataclass_fields(target)):
            yield from _in_field(value, fields[key], here, target)
        elif here not in READ_UNLISTED:
            yield from (leaf for leaf, _ in _leaves(value, here))


def _below(value: Any, known: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict) and isinstance(known, dict) and not is_free_form(path):
        yield from _unknown_paths(value, known, path, str(known.get("_target_", "")))


def _in_field(value: Any, annotation: str, path: str, target: str) -> Iterator[str]:
    """A field whose annotation names a dataclass beside `target` has keys of its own; any other takes what comes."""
    inner = f"{target.rpartition('.')[0]}.{annotation.strip()}"
    if isinstance(value, dict) and dataclass_fields(inner):
        yield from _unknown_paths(value, {}, path, inner)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    else:
        yield path, value


def _paths(tree: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in tree.items():
        here = f"{path}.{key}" if path else str(key)
        yield here
        if isinstance(value, dict):
            yield from _paths(value, here)
