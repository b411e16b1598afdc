"""Whether a value of a config fits an annotation as VeRL's dataclasses write it, e.g. `Optional[int]`."""

from __future__ import annotations

import ast
from functools import cache
from typing import Any

WORDS = {"int": "whole number", "float": "number", "bool": "true or false", "str": "text", "list": "list",
         "dict": "mapping", "tuple": "list", "None": "null"}  # fmt: skip


def accepts(annotation: str, value: Any) -> bool:
    """Whether `value` fits. A whole number is a number, a list stands for a tuple, a mapping for a config class; other
    class names take anything."""
    return _accepts(_parsed(annotation), value)


def spoken(annotation: str) -> str:
    """The annotation in words, e.g. "whole number or null"."""
    return " or ".join(dict.fromkeys(_spoken(_parsed(annotation))))


@cache
def _parsed(annotation: str) -> ast.expr:
    return ast.parse(annotation, mode="eval").body


def _accepts(node: ast.expr, value: Any) -> bool:
    if value == "???":  # OmegaConf's mark of a value that is still to come
        return True
    if alternatives := _alternatives(node):
        return any(_accepts(each, value) for each in alternatives)
    if isinstance(node, ast.Subscript):
        return _accepts_of(ast.unparse(node.value), _arguments(node), value)
    return _accepts_name(ast.unparse(node), value)


def _alternatives(node: ast.expr) -> list[ast.expr]:
    """The parts of `X | Y`, `Union[X, Y]` and `Optional[X]`."""
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Union":
        return _arguments(node)
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Optional":
        return [*_arguments(node), ast.Constant(None)]
    if isinstance(node, ast.Tuple):  # VeRL writes Optional[(str | list)]
        return list(node.elts)
    return []


def _arguments(node: ast.Subscript) -> list[ast.expr]:
    return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]


def _accepts_of(name: str, arguments: list[ast.expr], value: Any) -> bool:
    """`list[X]`, `tuple[X, Y]`, `Literal[...]` and `dict[...]`, whose contents are not looked at."""
    if name == "Literal":
        return value in [ast.literal_eval(each) for each in arguments]
    if name in ("list", "List"):
        return isinstance(value, list) and all(_accepts(arguments[0], item) for item in value)
    if name in ("tuple", "Tuple"):
        same = isinstance(value, list) and len(value) == len(arguments)
        return same and all(_accepts(kind, item) for kind, item in zip(arguments, value, strict=True))
    return _accepts_name(name.lower(), value)


def _accepts_name(name: str, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        "int": number and isinstance(value, int),
        "float": number,
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "list": isinstance(value, list),
        "tuple": isinstance(value, list),
        "dict": isinstance(value, dict),
        "None": value is None,
    }
    return fits.get(name, isinstance(value, dict) if name.endswith("Config") else True)


def _spoken(node: ast.expr) -> list[str]:
    if alternatives := _alternatives(node):
        return [word for each in alternatives for word in _spoken(each)]
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
        return [str(ast.literal_eval(each)) for each in _arguments(node)]
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("list", "tuple", "List", "Tuple"):
        inner = " and ".join(dict.fromkeys(word for each in _arguments(node) for word in _spoken(each)))
        return [f"list of {inner}"]
    name = ast.unparse(node.value if isinstance(node, ast.Subscript) else node)
    return [WORDS.get(name, "mapping")]
