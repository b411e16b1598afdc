"""Which values the installed VeRL accepts, read from its sources without importing it.

Names stand in three forms there: a decorator that registers (`@register_adv_est(AdvantageEstimator.GRPO)`), a literal
list or table (`supported_backend = [...]`), and a dataclass that compares a field with a list when it is made
(`assert self.lr_scheduler_type in ["constant", "cosine"]` in `__post_init__`).
"""

from __future__ import annotations

import ast
from functools import cache
from typing import Any

from posttrain_verl.verl_keys import class_of, syntax_trees


@cache
def registered(place: str, decorator: str) -> tuple[str, ...]:
    """Names given to `@decorator(name)` in a module or in the files of a package, e.g. `verl.trainer.ppo.core_algos`.

    A member of an enum of the same place stands for its value.
    """
    trees = syntax_trees(place, decorator)
    enums = {name: value for tree in trees for name, value in _members(tree).items()}
    calls = [call for tree in trees for call in _decorators(tree) if ast.unparse(call.func) == decorator and call.args]
    names = [call.args[0].value if isinstance(call.args[0], ast.Constant) else enums.get(ast.unparse(call.args[0]))
             for call in calls]  # fmt: skip
    return tuple(sorted({str(name) for name in names if name is not None}))


@cache
def listed(place: str, variable: str) -> tuple[str, ...]:
    """The strings in the literal list, set, table or `Literal[...]` that is assigned to `variable` in a module.

    A table gives its keys; of keys that are pairs, the first half.
    """
    for tree in syntax_trees(place, variable):
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and variable in _targets(node):
                return tuple(dict.fromkeys(_strings(node.value)))
    return ()


@cache
def compared(target: str) -> dict[str, tuple[Any, ...]]:
    """Fields of a dataclass that it compares with a list of allowed values in `__post_init__`, with that list.

    Base classes are read too.
    """
    node = class_of(target)
    if node is None:
        return {}
    module = target.rpartition(".")[0]
    found: dict[str, tuple[Any, ...]] = {}
    for base in node.bases:
        found |= compared(f"{module}.{ast.unparse(base)}")
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__post_init__":
            found |= _comparisons(method)
    return found


def _comparisons(method: ast.FunctionDef) -> dict[str, tuple[Any, ...]]:
    """`assert self.x in [...]` and `if self.x not in names: raise`, always or `if self.x is not None`."""
    lists = {name: node.value for node in ast.walk(method) if isinstance(node, ast.Assign) for name in _targets(node)}
    found: dict[str, tuple[Any, ...]] = {}
    for statement in method.body:
        found |= _comparison(statement, lists)
        if isinstance(statement, ast.If):
            inner = {name: values for each in statement.body for name, values in _comparison(each, lists).items()}
            found |= {n: v for n, v in inner.items() if ast.unparse(statement.test) == f"self.{n} is not None"}
    return found


def _comparison(statement: ast.stmt, lists: dict[str, ast.expr]) -> dict[str, tuple[Any, ...]]:
    if isinstance(statement, ast.Assert):
        wanted: type[ast.cmpop] = ast.In
    elif isinstance(statement, ast.If) and any(isinstance(inner, ast.Raise) for inner in statement.body):
        wanted = ast.NotIn
    else:
        return {}
    test = statement.test
    if not (isinstance(test, ast.Compare) and _is_own(test.left) and isinstance(test.ops[0], wanted)):
        return {}
    values = _literal(lists.get(ast.unparse(test.comparators[0]), test.comparators[0]))
    return {ast.unparse(test.left).removeprefix("self."): values} if values else {}


def _is_own(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def _literal(node: ast.expr) -> tuple[Any, ...]:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ()
    return tuple(value) if isinstance(value, list | tuple | set) else ()


def _decorators(tree: ast.Module) -> list[ast.Call]:
    return [
        decorator
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
    ]


def _members(tree: ast.Module) -> dict[str, Any]:
    """`Class.NAME` of every class attribute that is a literal."""
    return {
        f"{node.name}.{name}": statement.value.value
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        for name in _targets(statement)
    }


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    return [ast.unparse(target) for target in (node.targets if isinstance(node, ast.Assign) else [node.target])]


def _strings(node: ast.expr) -> list[str]:
    keys: list[ast.expr | None] = list(node.keys) if isinstance(node, ast.Dict) else [node]
    halves = [key.elts[0] if isinstance(node, ast.Dict) and isinstance(key, ast.Tuple) else key for key in keys]
    constants = [inner for half in halves if half is not None for inner in ast.walk(half)]
    return [each.value for each in constants if isinstance(each, ast.Constant) and isinstance(each.value, str)]
