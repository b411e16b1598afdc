"""The side that holds the tests. It calls the program through a channel and compares what comes back here.

The tests run in their own process. What they take from the program are mirrors (`mirror`), which send arguments over
and get plain data back. So a program can neither read an expectation, nor replace what compares, nor end the checks.
The judge counts the assertions that were made: tests that made none prove nothing.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import math
import random
import re
import socket
import sys
import types
import unittest
from collections.abc import Callable, Iterator
from typing import Any

from reward_fns.code.inside import collect, pytest_subset, wire
from reward_fns.code.inside.client import Program
from reward_fns.code.inside.mirror import TESTS_FILE, Unsupported, is_failure

RELATIVE_TOLERANCE = 1e-6


def judge(spec: dict[str, Any], channel: socket.socket) -> dict[str, object]:
    """Run the tests of `spec` -> {"passed": [bool, ...], "why": first failure, "unsupported": bool}.

    `spec` is {"kind": "assert", "setup": code, "tests": [code], "entry_point": name or "", "names": [name], "classes": [name]} or
    {"kind": "call", "entry_point": name, "calls": [[args, expected], ...]}; "all_or_nothing" stops at a failure."""
    program = Program(channel)
    suite = None if spec["kind"] == "call" else Suite(spec, program)
    tests = call_tests(spec, program) if suite is None else suite.tests()
    verdict: dict[str, Any] = {"passed": [], "why": "", "unsupported": False}
    for test in tests:
        try:
            test()
            check_undisturbed(program)
            verdict["passed"].append(True)
        except BaseException as error:  # any end of a test but its regular one is a failure of that test
            verdict["passed"].append(False)
            verdict["why"] = verdict["why"] or f"{type(error).__name__}: {error}"[:300]
            # The fault is the verifier's for what cannot be sent, and for what is not installed here. A program's own
            # ModuleNotFoundError arrives without the name of a module.
            missing = isinstance(error, ModuleNotFoundError) and error.name is not None
            verdict["unsupported"] = verdict["unsupported"] or missing or isinstance(error, Unsupported)
            if spec.get("all_or_nothing") or isinstance(error, wire.Closed):
                break
    if suite and all(verdict["passed"]) and not suite.checks:
        return {**verdict, "passed": [False], "why": "the tests made no assertion", "unsupported": True}
    return verdict


def check_undisturbed(program: Program) -> None:
    """Raises what a test has swallowed that is no failure of the program: something unsupported, or the end of the program."""
    if Unsupported.raised:
        raise Unsupported.raised[0]
    if program.gone:
        raise wire.Closed("the program ended while it was called")


def call_tests(spec: dict[str, Any], program: Program) -> Iterator[Callable[[], None]]:
    function = program.named(spec["entry_point"])
    for args, expected in spec["calls"]:

        def test(args: list[Any] = args, expected: object = expected) -> None:
            args = list(map(undo_text_keys, args))
            result = program.call(function, tuple(args), {}, plain=True)
            program.settle()
            # LeetCode expects of a function that works in place what it has made of its first argument.
            in_place = result is None and expected is not None and bool(args)
            if not is_expected(args[0] if in_place else result, expected):
                raise AssertionError("the result differs")

        yield test


def undo_text_keys(value: object) -> object:
    """JSON has made text of the numbers that were keys of an argument."""
    if isinstance(value, dict) and value and all(re.fullmatch(r"-?\d+", key) for key in value):
        return {int(key): item for key, item in value.items()}
    return value


def is_expected(result: object, expected: object) -> bool:
    """Whether a call gave what a test expects, which APPS wraps in a list."""
    wrapped = isinstance(expected, list) and len(expected) == 1
    return values_alike(result, expected) or (wrapped and values_alike(result, expected[0]))  # type: ignore[index]


def values_alike(result: object, expected: object) -> bool:
    """Equality of data that came through JSON: tuples are lists, floats compare at 1e-6, dictionary keys as text."""
    if type(result).__name__ == "ndarray":
        result = result.tolist()  # type: ignore[attr-defined]
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


class Suite:
    """The assertion tests of an exercise, in one namespace. The names that they do not define themselves are the program's."""

    def __init__(self, spec: dict[str, Any], program: Program):
        self.spec, self.program = spec, program
        self.entry = str(spec.get("entry_point") or "")
        self.checks = 0
        self.entered: set[str] = set()
        self.prepared = False
        self.namespace: dict[str, Any] = {
            "__name__": "tests", "__file__": TESTS_FILE, collect.ASSERTED: frozenset(),
            collect.STEP: self.step, collect.CHECK: self.check, collect.CHECKED: self.checked, collect.GUARD: guard,
        }  # fmt: skip

    def step(self, function: str = "") -> None:
        """Before each statement of the tests, at the top of a function with its name."""
        self.program.settle()
        if function:
            self.entered.add(function)

    def check(self, function: str = "") -> None:
        """Before each assertion."""
        self.step(function)
        self.checks += 1

    def checked(self, function: Any) -> Any:
        self.checks += 1
        return function

    def tests(self) -> Iterator[Callable[[], None]]:
        for test in self.spec["tests"]:
            yield functools.partial(self.run, str(test))

    def prepare(self) -> None:
        """Once, with the first test: the modules that tests import, the program's names, and the code before the tests."""
        self.prepared = True
        program, namespace = self.program, self.namespace
        sys.modules["pytest"] = pytest_subset.Module(self.check)
        sys.modules["solution"] = Solution(program)
        forward_seeds(program)
        program.treated_as_classes = set(self.spec.get("classes", ()))
        namespace |= program.names(list(self.spec.get("names", ())))
        self.execute(ast.parse(str(self.spec.get("setup") or "")))
        program.shared = {
            name: value
            for name, value in namespace.items()
            if isinstance(value, type) and value.__module__ == "tests" and value.__bases__ == (object,)
        }
        if program.shared:  # a class that the program does not have cannot be made there
            known: Any = program.ask("share", classes=list(program.shared))["known"]
            program.shared = {name: program.shared[name] for name in known}
        if self.entry:
            # A name that the program lacks is looked up when it is called, which then fails.
            namespace.setdefault("candidate", namespace.get(self.entry, program.named(self.entry)))

    def execute(self, tree: ast.Module) -> None:
        self.namespace[collect.ASSERTED] |= collect.asserted_lines(tree)
        exec(compile(collect.rewrite_tests(tree), TESTS_FILE, "exec", dont_inherit=True), self.namespace)

    def run(self, test: str) -> None:
        """Run one test: its code, then what it defines for a test runner, then what it defines and nobody runs."""
        if not self.prepared:
            self.prepare()
        made = self.checks
        tree = ast.parse(test)
        guarded = collect.split_main_guard(tree)
        defined = collect.top_level_functions(tree)
        self.entered.clear()
        self.execute(tree)
        if defined:
            runner = pytest_subset.Runner(self.namespace)
            with runner.kept:
                for name in defined:
                    self.run_defined(name, runner)
        if self.checks == made:
            self.run_unasked(defined, guarded)
        self.program.settle()

    def run_defined(self, name: str, runner: pytest_subset.Runner) -> None:
        """HumanEval's check(candidate), and the tests of pytest and unittest."""
        value = self.namespace.get(name)
        if isinstance(value, type) and issubclass(value, unittest.TestCase):
            run_unit_tests(value)
        elif isinstance(value, type) and name.startswith("Test"):
            runner.run_class(value)
        elif isinstance(value, types.FunctionType) and name not in self.entered:
            if name == "check" and "candidate" in self.namespace:
                value(*[self.namespace["candidate"]][: len(inspect.signature(value).parameters)])
            elif self.is_collected(name, value):
                runner.run_function(value)

    def is_collected(self, name: str, function: Any) -> bool:
        """Whether it is a test for pytest. One that takes `candidate` is HumanEval's check under another name."""
        given = "candidate" in inspect.signature(function).parameters and "candidate" in self.namespace
        return name.startswith("test") and not hasattr(function, "pytest_fixture") and not given

    def run_unasked(self, defined: list[str], guarded: list[ast.stmt]) -> None:
        """Where nothing was asserted: what stands under `if __name__ == "__main__"`, then the functions that nobody called."""
        self.execute(ast.Module(guarded, []))
        for name in defined:
            value = self.namespace.get(name)
            if not isinstance(value, types.FunctionType) or name in self.entered or hasattr(value, "pytest_fixture"):
                continue
            if self.is_collected(name, value):  # it was skipped
                continue
            required = [one for one in inspect.signature(value).parameters.values() if one.default is one.empty]
            if len(required) == 1 and "candidate" in self.namespace:
                pytest_subset.run_maybe_async(value, {required[0].name: self.namespace["candidate"]})
            elif not required:
                pytest_subset.run_maybe_async(value, {})


class Solution(types.ModuleType):
    """`import solution` in the tests: the program as a module."""

    def __init__(self, program: Program):
        super().__init__("solution")
        self.__dict__["_program"] = program

    def __getattr__(self, name: str) -> Any:
        program: Program = self.__dict__["_program"]
        if name == "__all__":
            # `from solution import *` must not let a program replace `sum` in the tests.
            return [name for name in map(str, program.ask("public")["names"]) if not hasattr(builtins, name)]
        found = {} if name.startswith("__") else program.names([name])
        if name not in found:
            raise AttributeError(f"the program has no {name}")
        return found[name]


def guard() -> None:
    """In a handler that does nothing about what it caught: a failed assertion of the tests themselves is a failure."""
    error = sys.exception()
    if isinstance(error, AssertionError) and is_failure(error):
        raise error


def forward_seeds(program: Program) -> None:
    """Tests that seed a generator of random numbers seed the program's too."""
    modules: dict[str, Any] = {"random": random, "numpy": getattr(sys.modules.get("numpy"), "random", None)}
    for name, module in modules.items():
        if module is not None:

            def seed(value: Any = None, name: str = name, own: Any = module.seed, **_: Any) -> None:
                own(value)
                program.ask("seed", module=name, to=program.encode(value))

            module.seed = seed


def run_unit_tests(case: type[unittest.TestCase]) -> None:
    """Raises what the first failed test raised when it was the verifier's fault, else AssertionError."""
    outcome = UnitTests()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(outcome)
    if outcome.blamed is not None:
        raise outcome.blamed
    failed = len(outcome.failures) + len(outcome.errors) + len(outcome.unexpectedSuccesses)
    if failed:
        raise AssertionError(f"{failed} of {outcome.testsRun} unit tests failed")


class UnitTests(unittest.TestResult):
    """The outcome of unit tests, which keeps the first error that is not the program's."""

    blamed: BaseException | None = None

    def addError(self, test: Any, err: Any) -> None:
        if isinstance(err[1], Unsupported | ModuleNotFoundError | wire.Closed):
            self.blamed = self.blamed or err[1]
        super().addError(test, err)
