"""VeRL's own tree, with which checks compare the launch's, and the values in a tree."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from posttrain_verl.compose import Composed, our_tree, verl_tree


def known(composed: Composed) -> dict[str, Any]:
    """VeRL's own tree of the stage, as it is written; read once for the same choices."""
    return _known(composed.stage, tuple(sorted(composed.choices.items())))


@cache
def _known(stage: str, choices: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return verl_tree(stage, dict(choices))


def ours(composed: Composed) -> dict[str, Any]:
    """Our own keys below `posttrain` that the chosen options have; read once for the same choices."""
    return _ours(tuple(sorted(composed.choices.items())))


@cache
def _ours(choices: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return our_tree(dict(choices))


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value below `node` that is no mapping, with its dotted path; an empty mapping is one, too."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
