"""The side that holds the tests. It calls the program through a channel and compares what comes back here.

The tests run unchanged, in their own process: the functions they test are proxies that send the arguments over and
get plain data back. So a program can neither read an expectation, nor replace what compares, nor end the checks.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import math
import socket
import sys
import unittest
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from reward_fns.code.inside import wire

RELATIVE_TOLERANCE = 1e-6
BUILTINS = frozenset(dir(builtins))


class RemoteError(RuntimeError):
    """The program raised an exception that is not a built-in one."""


class Unsupported(TypeError):
    """The test passes something that cannot be sent to the program: a fault of the verifier, not of the answer."""


class Program:
    def __init__(self, channel: socket.socket):
        self.channel = channel

    def ask(self, op: str, **request: object) -> dict[str, object]:
        """One request. Raises what the program raised, or wire.Closed when it is gone."""
        wire.send(self.channel, {"op": op, **request})
        reply = wire.receive(self.channel)
        if "error" in reply:
            kind = getattr(builtins, str(reply["error"]), None)
            text = f"{reply['error']}: {reply.get('text')}"
            if isinstance(kind, type) and issubclass(kind, Exception) and kind is not AssertionError:
                raise kind(text)
            raise RemoteError(text)
        return reply

    def value(self, op: str, **request: object) -> object:
        return self.decode(self.ask(op, **request)["value"])

    def encode(self, value: object) -> object:
        return wire.encode(value, self.refer)

    def decode(self, data: object) -> object:
        return wire.decode(data, lambda number: Remote(self, ref=int(str(number))))

    def refer(self, value: object) -> object:
        if isinstance(value, Remote):
            where = object.__getattribute__(value, "_where")
            return {"ref": where["ref"] if "ref" in where else {"global": where["name"]}}
        if getattr(value, "__module__", "") == "builtins" and getattr(value, "__name__", "") in BUILTINS:
            return {"ref": value.__name__}  # type: ignore[attr-defined]
        raise Unsupported(f"a test passes a {type(value).__name__}, which cannot be sent to the program")


class Remote:
    """Something of the program: a function to call, or an object that is not plain data.

    It equals itself only. What can be asked of it (call, attribute, item, length, iteration, its text) gives plain data
    or another Remote."""

    __slots__ = ("_program", "_where")

    def __init__(self, program: Program, **where: object):
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_where", where)

    def _ask(self, op: str, **request: object) -> object:
        """What the program answers, as plain data or another Remote."""
        program, where = (object.__getattribute__(self, name) for name in self.__slots__)
        return program.value(op, **where, **request)

    def __call__(self, *args: object, **kwargs: object) -> object:
        program, where = (object.__getattribute__(self, name) for name in self.__slots__)
        sent = {"args": [program.encode(a) for a in args], "kwargs": {k: program.encode(v) for k, v in kwargs.items()}}
        reply = program.ask("call", **where, **sent)
        # Only a function that works in place changes its arguments. Else f(x) == sorted(x) could be met by emptying x.
        if reply["value"] is None:
            for index, data in dict(reply.get("changed") or {}).items():
                overwrite_argument(args[int(index)], program.decode(data))
        return program.decode(reply["value"])

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("get", attribute=name)

    def __setattr__(self, name: str, value: object) -> None:
        self._ask("set", attribute=name, to=object.__getattribute__(self, "_program").encode(value))

    def __getitem__(self, key: object) -> object:
        return self._ask("item", key=object.__getattribute__(self, "_program").encode(key))

    def __len__(self) -> int:
        return int(str(self._ask("len")))

    def __iter__(self) -> Iterator[object]:
        return iter(self._ask("list"))  # type: ignore[call-overload]

    def __next__(self) -> object:
        return self._ask("next")

    def __str__(self) -> str:
        return str(self._ask("str"))

    def __repr__(self) -> str:
        return str(self._ask("repr"))

    def __bool__(self) -> bool:
        return True


def overwrite_argument(mine: Any, theirs: Any) -> None:
    """Carry a change that the program made to an argument over to the test's own object."""
    if isinstance(mine, list | bytearray) and type(mine) is type(theirs):
        mine[:] = theirs
    elif isinstance(mine, dict | set | deque) and type(mine) is type(theirs):
        mine.clear()
        (mine.extend if isinstance(mine, deque) else mine.update)(theirs)


def judge(spec: dict[str, object], channel: socket.socket) -> dict[str, object]:
    """Run the tests of `spec` -> {"passed": [bool, ...], "why": first failure, "unsupported": bool}.

    `spec` is {"kind": "assert", "setup": code, "tests": [code], "entry_point": name or ""} or
    {"kind": "call", "entry_point": name, "calls": [[args, expected], ...]}; "all_or_nothing" stops at a failure."""
    program = Program(channel)
    verdict: dict[str, object] = {"passed": [], "why": "", "unsupported": False}
    passed: list[bool] = []
    for test in call_tests(spec, program) if spec["kind"] == "call" else assertion_tests(spec, program):
        try:
            test()
            passed.append(True)
        except BaseException as error:  # any end of a test but its regular one is a failure of that test
            passed.append(False)
            verdict["why"] = verdict["why"] or f"{type(error).__name__}: {error}"[:300]
            # The fault is the verifier's for what cannot be sent, and for what is not installed here. A program's own
            # ModuleNotFoundError arrives as text and has no name.
            missing = isinstance(error, ModuleNotFoundError) and error.name is not None
            verdict["unsupported"] = verdict["unsupported"] or missing or isinstance(error, Unsupported)
            if spec.get("all_or_nothing") or isinstance(error, wire.Closed):
                break
    return {**verdict, "passed": passed}


def call_tests(spec: dict[str, object], program: Program) -> Iterator[Callable[[], None]]:
    function = Remote(program, name=spec["entry_point"])
    for args, expected in spec["calls"]:  # type: ignore[attr-defined]

        def test(args: list[object] = args, expected: object = expected) -> None:
            if not is_expected(function(*args), expected):
                raise AssertionError("the result differs")

        yield test


def is_expected(result: object, expected: object) -> bool:
    """Whether a call gave what a test expects, which APPS wraps in a list."""
    wrapped = isinstance(expected, list) and len(expected) == 1
    return values_alike(result, expected) or (wrapped and values_alike(result, expected[0]))  # type: ignore[index]


def values_alike(result: object, expected: object) -> bool:
    """Equality of data that came through JSON: tuples are lists, floats compare at 1e-6, dictionary keys as text."""
    if isinstance(expected, list | tuple) and isinstance(result, list | tuple):
        return len(result) == len(expected) and all(map(values_alike, result, expected))
    if isinstance(expected, dict) and isinstance(result, dict):
        given = {str(key): value for key, value in result.items()}
        return given.keys() == expected.keys() and all(values_alike(given[k], v) for k, v in expected.items())
    if isinstance(expected, bool) or isinstance(result, bool):
        return isinstance(expected, int) and isinstance(result, int) and result == expected
    if isinstance(expected, float) or isinstance(result, float):
        numbers = isinstance(expected, int | float) and isinstance(result, int | float)
        return numbers and math.isclose(result, expected, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-9)  # type: ignore[arg-type]
    return type(result) is type(expected) and result == expected


def assertion_tests(spec: dict[str, object], program: Program) -> Iterator[Callable[[], None]]:
    """One callable per test. The names that the tests do not define themselves are the program's."""
    tests = [str(test) for test in spec["tests"]]  # type: ignore[attr-defined]
    entry = str(spec.get("entry_point") or "")
    namespace: dict[str, object] = {"__name__": "tests"}

    @cache
    def prepare() -> None:
        setup = str(spec.get("setup") or "")
        bind_names(namespace, wanted_names([setup, *tests], entry), program)
        exec(setup, namespace)
        if entry:
            namespace.setdefault("candidate", Remote(program, name=entry))

    for test in tests:

        def run(test: str = test) -> None:
            prepare()
            before = set(namespace)
            exec(compile(test, "test.py", "exec"), namespace)
            run_defined({name: namespace[name] for name in set(namespace) - before}, namespace)

        yield run


def run_defined(new: dict[str, object], namespace: dict[str, object]) -> None:
    """Run what a test only defines: HumanEval's check(candidate), and unittest cases."""
    if "check" in new and "candidate" in namespace:
        namespace.pop("check")  # the next test may define its own
        new["check"](namespace["candidate"])  # type: ignore[operator]
    cases = [case for case in new.values() if isinstance(case, type) and issubclass(case, unittest.TestCase)]
    for case in cases:
        outcome = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(case).run(outcome)
        if not outcome.wasSuccessful() or not outcome.testsRun:
            failed = len(outcome.failures) + len(outcome.errors)
            raise AssertionError(f"{failed} of {outcome.testsRun} unit tests failed")


def wanted_names(sources: list[str], entry: str) -> list[str]:
    """The names that the tests take from the program.

    A built-in name is the program's only when it is the entry point, or when the tests call nothing else of it: a
    program must not get its own `set` or `sorted` into the comparison."""
    trees = [ast.parse(source) for source in sources]
    names = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)]
    stored = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | defined_names(trees)
    loaded = {node.id for node in names if isinstance(node.ctx, ast.Load)} - stored
    free = loaded - BUILTINS
    if entry:
        free.add(entry)
    if not free - {"candidate"}:
        free |= {name for tree in trees for name in outermost_calls(tree)} & BUILTINS
    return sorted(free)


def defined_names(trees: list[ast.Module]) -> set[str]:
    found: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return found


def outermost_calls(tree: ast.Module) -> Iterator[str]:
    """The functions that assertions call first, as f in `assert f(g(x)) == y`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            expression = node.test.left if isinstance(node.test, ast.Compare) else node.test
            if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name):
                yield expression.func.id


def bind_names(namespace: dict[str, object], names: list[str], program: Program) -> None:
    kinds = program.value("names", names=names)
    for name, kind in dict(kinds).items():  # type: ignore[call-overload]
        if kind == "module":
            if name in sys.stdlib_module_names:  # math, when the program imported it; `import math as f` makes no f
                namespace[name] = importlib.import_module(name)
        elif kind == "callable":
            namespace[name] = Remote(program, name=name)
        else:
            namespace[name] = program.value("global", name=name)
