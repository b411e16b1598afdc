"""Keys that the installed VeRL calls otherwise than this product: one line for each.

Our recipes, trunks and settings are written for VeRL 0.9.1. Where a later VeRL renames a key, its new name goes here; a node
stands for all keys below it. Everything else follows: composing translates our yaml, settings read and name the new key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

# Our name -> the name in the installed VeRL, e.g. "trainer.nnodes": "trainer.num_nodes".
RENAMED: dict[str, str] = {}

# Modules and functions of ours that config.yaml of an earlier run names: the old place -> the present one.
MOVED = {
    "posttrain_verl.run.sampler": "posttrain_verl.verl.replay_buffer",
    "posttrain_verl.run.agent_loops.": "posttrain_verl.verl.agent_loops.",
    "posttrain_verl.verl.retention.": "posttrain_verl.verl.checkpoints.",
    "name: PromptReplayBuffer": "name: build_replay_buffer",
}

_REFERENCE = re.compile(r"(\$\{(?:[\w.]+:)?)([\w.]+)")  # ${key}, and ${oc.select:key,default}


def current_key(key: str) -> str:
    """The name that the installed VeRL has for a key that we write."""
    return _rename(key, RENAMED)


def our_key(key: str) -> str:
    """The name that we write for a key of the installed VeRL."""
    return _rename(key, {new: old for old, new in RENAMED.items()})


def translate_override(override: str) -> str:
    """An override of ours, such as `trainer.nnodes=2`, with its key and every reference under their current names."""
    key, equals, value = override.partition("=")
    plain = key.lstrip("+~")
    return key[: len(key) - len(plain)] + current_key(plain) + equals + _translate_references(value)


def _rename(key: str, names: Mapping[str, str]) -> str:
    found = max((old for old in names if key == old or key.startswith(f"{old}.")), key=len, default=None)
    return key if found is None else names[found] + key[len(found) :]


def translate(tree: dict[str, Any], path: str = "") -> dict[str, Any]:
    """A tree of ours with every renamed key, and every reference to one, under its current name."""
    if not RENAMED:
        return tree
    made: dict[str, Any] = {}
    for key, value in iterate_leaves(tree, path) if tree else ():
        node, (*parents, leaf) = made, current_key(key).split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = _translate_references(value)
    return made


def _translate_references(value: Any) -> Any:
    if isinstance(value, list):
        return [_translate_references(item) for item in value]
    if not isinstance(value, str):
        return value
    return _REFERENCE.sub(lambda found: found[1] + current_key(found[2]), value)


def iterate_leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value below `node` that is not a mapping, with its dotted path. An empty mapping is a value, too."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from iterate_leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def with_present_modules(config: str) -> str:
    """The yaml of an earlier run's config, with our own modules where they are now."""
    for old, new in MOVED.items():
        config = config.replace(old, new)
    return config
