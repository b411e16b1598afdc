"""What LeetCode's own judge gives a program besides its arguments: names in scope, and nodes built from lists.

Its problems state lists and trees as JSON: `[1, 2, 3]` is a linked list, `[1, null, 2]` a tree level by level.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import re
import types
from collections import deque
from functools import cache
from typing import Any

OPEN_MODULES = "operator string re random statistics copy math itertools functools bisect heapq collections typing"
NAMED_MODULES = f"{OPEN_MODULES} sys json datetime time io os decimal fractions array"
NODE = re.compile(r"\b(ListNode|TreeNode)\b")
MAX_NODES = 1_000_000


class ListNode:
    def __init__(self, val: Any = 0, next: Any = None):
        self.val = val
        self.next = next


class TreeNode:
    def __init__(self, val: Any = 0, left: Any = None, right: Any = None):
        self.val = val
        self.left = left
        self.right = right


@cache
def names_in_scope() -> dict[str, object]:
    """What stands for a program's built-in names: Python's own, and behind them those that LeetCode puts in scope.

    It is made once and handed out as it is: a copy in each process would cost a millisecond of page faults."""
    found: dict[str, object] = {"ListNode": ListNode, "TreeNode": TreeNode}
    for name in OPEN_MODULES.split():
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None) or [key for key in vars(module) if not key.startswith("_")]
        found |= {key: getattr(module, key) for key in public}
    found |= {name: importlib.import_module(name) for name in NAMED_MODULES.split()}
    return found | vars(builtins)


def build_arguments(function: Any, args: list[Any], module: types.ModuleType) -> list[Any]:
    """`args`, with a list where the function's annotation asks for nodes built into them."""
    if not any(NODE.search(str(annotation)) for annotation in getattr(function, "__annotations__", {}).values()):
        return args
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return args
    return [
        build_nodes(arg, parameter.annotation, module) for arg, parameter in zip(args, parameters, strict=False)
    ] + args[len(parameters) :]


def build_nodes(value: Any, annotation: Any, module: types.ModuleType) -> Any:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "") + str(annotation)
    named = NODE.search(text)
    if not named or not isinstance(value, list):
        return value
    kind = module.__dict__.get(named[1]) or names_in_scope()[named[1]]
    build = build_list if named[1] == "ListNode" else build_tree
    if re.search(r"\b[Ll]ist\[", text):
        return [build(item, kind) if isinstance(item, list) else item for item in value]
    return build(value, kind)


def build_list(values: list[Any], kind: Any) -> Any:
    head = None
    for value in reversed(values):
        node = kind(value)
        node.next, head = head, node
    return head


def build_tree(values: list[Any], kind: Any) -> Any:
    """The tree of a list level by level, in which None stands for a child that is absent and has none itself."""
    if not values or values[0] is None:
        return None
    root = kind(values[0])
    parents, rest = deque([root]), deque(values[1:])
    while parents and rest:
        parent = parents.popleft()
        for side in ("left", "right"):
            value = rest.popleft() if rest else None
            if value is not None:
                child = kind(value)
                setattr(parent, side, child)
                parents.append(child)
    return root


def is_node(value: Any) -> bool:
    return type(value).__name__ in ("ListNode", "TreeNode")


def as_result(value: Any, function: Any) -> Any:
    """What a call gave, as JSON states it: nodes as lists, and no node as the empty list."""
    if value is None:
        annotation = getattr(function, "__annotations__", {}).get("return")
        return [] if NODE.search(str(annotation)) else None
    return as_plain(value)


def as_plain(value: Any) -> Any:
    """`value` with nodes, also those in a list, as the lists that state them. Raises OverflowError for a list without end."""
    if type(value) is list and any(map(is_node, value)):
        return [as_plain(item) for item in value]
    if type(value).__name__ == "ListNode":
        return list_values(value)
    return tree_values(value) if type(value).__name__ == "TreeNode" else value


def list_values(node: Any) -> list[Any]:
    values = []
    while node is not None:
        values.append(node.val)
        node = node.next
        if len(values) > MAX_NODES:
            raise OverflowError(f"a list of more than {MAX_NODES} nodes")
    return values


def tree_values(root: Any) -> list[Any]:
    values: list[Any] = []
    level = deque([root])
    while level:
        node = level.popleft()
        values.append(None if node is None else node.val)
        level.extend(() if node is None else (node.left, node.right))
        if len(values) > MAX_NODES:
            raise OverflowError(f"a tree of more than {MAX_NODES} nodes")
    while values and values[-1] is None:
        values.pop()
    return values
