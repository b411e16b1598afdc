"""The part of pytest that exercises use, for tests that run in the judge: `raises`, `approx`, `fail`, `skip`, `param`,
`mark.parametrize`, `mark.skip`, `mark.skipif`, `mark.xfail`, fixtures, and `capsys`.

Anything else raises Unsupported: a test is run as it is meant, or it is the verifier's error.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import math
import re
import sys
import types
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from fractions import Fraction
from typing import Any

from reward_fns.code.inside.mirror import Unsupported

HARMLESS_MARKS = {"asyncio", "timeout", "slow", "unit", "integration", "anyio", "order", "run", "performance"}
NUMBERS = (int, float, complex, Decimal, Fraction)
Captured = namedtuple("Captured", "out err")
Param = namedtuple("Param", "values marks")
Run = namedtuple("Run", "arguments fixtures")  # of a test: its parameters, and the fixtures that its marks name


class Skipped(Exception):
    """The test says that it is not to be run."""


class Raised:
    """What `raises` gives: the exception, once the block has ended."""

    value: Any = None

    @property
    def type(self) -> Any:
        return type(self.value)

    @property
    def typename(self) -> str:
        return type(self.value).__name__

    def match(self, pattern: str) -> bool:
        assert re.search(pattern, str(self.value)), f"{pattern!r} does not match {str(self.value)!r}"
        return True


class Approx:
    """Equal within `rel` of the expected value or `abs`, whichever is larger, as pytest has it."""

    def __init__(self, expected: Any, rel: Any = None, abs: Any = None, nan_ok: bool = False):
        self.expected, self.relative, self.absolute, self.nan_ok = expected, rel, abs, nan_ok

    def __eq__(self, actual: object) -> bool:
        return self.alike(actual, self.expected)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"approx({self.expected!r})"

    def alike(self, actual: Any, expected: Any) -> bool:
        if type(expected).__name__ == "ndarray" or type(actual).__name__ == "ndarray":
            actual, expected = (one.tolist() if hasattr(one, "tolist") else one for one in (actual, expected))
        if isinstance(expected, Mapping):
            if not isinstance(actual, Mapping) or actual.keys() != expected.keys():
                return False
            return all(self.alike(actual[key], value) for key, value in expected.items())
        if isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
            if not isinstance(actual, Sequence) or isinstance(actual, str | bytes) or len(actual) != len(expected):
                return False
            return all(map(self.alike, actual, expected))
        if isinstance(expected, bool) or not isinstance(expected, NUMBERS) or not isinstance(actual, NUMBERS):
            return bool(actual == expected)
        return actual == expected or self.near(actual, expected)

    def near(self, actual: Any, expected: Any) -> bool:
        if not isinstance(expected, complex) and (math.isnan(expected) or math.isnan(actual)):
            return self.nan_ok and math.isnan(expected) and math.isnan(actual)
        if not isinstance(expected, complex) and math.isinf(expected):
            return False
        kind = type(expected) if isinstance(expected, Decimal) else float
        relative = 0 if self.relative is None and self.absolute is not None else self.relative or 1e-6
        margin = max(kind(relative) * abs(expected), kind(1e-12 if self.absolute is None else self.absolute))
        return bool(abs(actual - expected) <= margin)


class Mark:
    """`mark.NAME` and `mark.NAME(...)`, which decorate a test."""

    def __init__(self, name: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None):
        self.name, self.args, self.kwargs = name, args, kwargs or {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given: Any = args[0] if len(args) == 1 and not kwargs else None
        if isinstance(given, types.FunctionType | type):
            setattr(given, "pytestmark", [*getattr(given, "pytestmark", []), self])  # noqa: B010
            return given
        return Mark(self.name, args, kwargs)


class Marks:
    def __getattr__(self, name: str) -> Mark:
        return Mark(name)


class Module(types.ModuleType):
    """`import pytest` in the tests. `succeeded` is told of each block that raised what it should."""

    def __init__(self, succeeded: Callable[[], None]):
        super().__init__("pytest")
        self.succeeded = succeeded
        self.mark, self.approx, self.param = Marks(), Approx, make_param
        self.fixture, self.fail, self.skip, self.importorskip = mark_fixture, fail, skip, __import__
        self.raises = self.expect_exception
        self.main = lambda *args, **kwargs: 0  # the judge runs the tests itself
        self.__all__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Unsupported(f"the tests use pytest.{name}, which the judge does not have")

    def expect_exception(self, expected: Any, *call: Any, match: str | None = None, **kwargs: Any) -> Any:
        block = self.expect_block(expected, match)
        if not call:
            return block
        with block as raised:
            call[0](*call[1:], **kwargs)
        return raised

    @contextmanager
    def expect_block(self, expected: Any, match: str | None) -> Iterator[Raised]:
        raised = Raised()
        try:
            yield raised
        except expected as error:
            raised.value = error
            if match is not None:
                raised.match(match)
            self.succeeded()
        else:
            raise AssertionError(f"did not raise {expected}")


def fail(reason: str = "", pytrace: bool = True, msg: str = "") -> None:
    raise AssertionError(reason or msg)


def skip(reason: str = "", **_: Any) -> None:
    raise Skipped(reason)


def make_param(*values: Any, marks: Any = (), id: Any = None) -> Param:
    return Param(values, tuple(marks) if isinstance(marks, list | tuple) else (marks,))


def mark_fixture(function: Any = None, **options: Any) -> Any:
    if function is None:
        return lambda given: mark_fixture(given, **options)
    function.pytest_fixture = options
    return function


METHOD_HOOKS = (("setup_method", "teardown_method"), ("setup", "teardown"))


class Names:
    """The module of the tests, as `setup_module(module)` gets it: its attributes are the names that the tests define."""

    def __init__(self, namespace: dict[str, Any]):
        self.__dict__ = namespace


class Runner:
    """Runs the tests that a namespace of the tests defines, each with the fixtures that it asks for.

    A set of parameters is a test of its own, as in pytest: a fresh object, the functions that set up, its own fixtures."""

    def __init__(self, namespace: dict[str, Any]):
        self.namespace = namespace
        self.kept = ExitStack()  # of fixtures that outlive a test
        self.values: dict[tuple[object, ...], Any] = {}
        self.module_is_set_up = False

    def run_function(self, function: Any) -> None:
        hooks = (self.namespace.get("setup_function"), self.namespace.get("teardown_function"))
        for run in self.runs_of(list(getattr(function, "pytestmark", []))):
            self.run_test(function, None, run, [hooks])

    def run_class(self, kind: type) -> None:
        """A class of tests, a fresh object for each of their runs."""
        if "__init__" in vars(kind):
            return  # pytest collects no such class
        self.set_up_module()
        class_marks = list(getattr(kind, "pytestmark", []))
        call_hook(getattr(kind, "setup_class", None))
        for name in list(dict.fromkeys(name for one in reversed(kind.__mro__) for name in vars(one))):
            method = getattr(kind, name)
            if name.startswith("test") and callable(method):
                for run in self.runs_of(class_marks + list(getattr(method, "pytestmark", []))):
                    instance = kind()
                    hooks = [
                        (getattr(instance, setup, None), getattr(instance, teardown, None))
                        for setup, teardown in METHOD_HOOKS
                    ]
                    self.run_test(getattr(instance, name), instance, run, hooks)
        for name, value in vars(kind).items():
            if name.startswith("Test") and isinstance(value, type):
                self.run_class(value)
        call_hook(getattr(kind, "teardown_class", None))

    def runs_of(self, marks: list[Mark]) -> Iterator[Run]:
        """The runs of a test, one for each set of parameters; none where it is skipped."""
        marks = [*marks, *self.module_marks()]
        if not is_skipped(marks):
            used = [name for mark in marks if mark.name == "usefixtures" for name in mark.args]
            for given in expand_parameters(marks):
                yield Run(given, used)

    def set_up_module(self) -> None:
        """Once, before the first test."""
        if not self.module_is_set_up:
            self.module_is_set_up = True
            module = Names(self.namespace)
            call_hook(self.namespace.get("setup_module"), module)
            self.kept.callback(call_hook, self.namespace.get("teardown_module"), module)

    def run_test(self, function: Any, instance: object, run: Run, hooks: list[tuple[Any, Any]]) -> None:
        """One run of a test: what sets up, the fixtures, the test, and in the reverse order what tears down."""
        self.set_up_module()
        with ExitStack() as stack, contextlib.suppress(Skipped):
            for setup, teardown in hooks:
                call_hook(setup, function)
                stack.callback(call_hook, teardown, function)
            automatic = [name for name, value in self.fixtures(instance).items() if value.pytest_fixture.get("autouse")]
            cache = dict(run.arguments)
            for name in (*automatic, *run.fixtures):
                self.fixture_value(name, instance, cache, stack)
            run_maybe_async(function, self.arguments(function, instance, cache, stack))

    def module_marks(self) -> list[Mark]:
        marks = self.namespace.get("pytestmark", [])
        return list(marks) if isinstance(marks, list | tuple) else [marks]

    def fixtures(self, instance: object) -> dict[str, Any]:
        named = dict(self.namespace)
        for kind in reversed(type(instance).__mro__ if instance is not None else ()):
            named |= {
                name: value.__get__(instance)
                for name, value in vars(kind).items()
                if isinstance(value, types.FunctionType)
            }
        return {
            value.pytest_fixture.get("name") or name: value
            for name, value in named.items()
            if isinstance(value, types.FunctionType | types.MethodType) and hasattr(value, "pytest_fixture")
        }

    def arguments(self, function: Any, instance: object, cache: dict[str, Any], stack: ExitStack) -> dict[str, Any]:
        wanted = inspect.signature(function).parameters.values()
        return {
            one.name: self.fixture_value(one.name, instance, cache, stack)
            for one in wanted
            if one.name in cache or one.default is one.empty
        }

    def fixture_value(self, name: str, instance: object, cache: dict[str, Any], stack: ExitStack) -> Any:
        if name in cache:
            return cache[name]
        if name in ("capsys", "capfd"):
            cache[name] = stack.enter_context(capture_output())
            return cache[name]
        fixture = self.fixtures(instance).get(name)
        if fixture is None or fixture.pytest_fixture.get("params") is not None:
            what = "fixture with parameters" if fixture else "fixture that the judge does not have"
            raise Unsupported(f"a test takes {name}, a {what}")
        scope = fixture.pytest_fixture.get("scope", "function")
        per_class = scope == "class"
        wide = scope != "function" and not (per_class and instance is None)
        place = (getattr(fixture, "__func__", fixture), name, type(instance) if per_class else None)
        if wide and place in self.values:
            return self.values[place]
        keeper = self.kept if wide else stack
        value = run_maybe_async(fixture, self.arguments(fixture, instance, cache, keeper))
        if inspect.isasyncgen(value):
            raise Unsupported(f"{name} is a fixture that yields asynchronously")
        if inspect.isgenerator(value):
            value = keeper.enter_context(contextmanager(lambda made=value: made)())
        (self.values if wide else cache)[place if wide else name] = value  # type: ignore[index]
        return value


def call_hook(hook: Any, subject: object = None) -> None:
    """A function that sets up or tears down, which may take what it is called for. A fixture named so is only a fixture."""
    if hook is not None and not hasattr(hook, "pytest_fixture"):
        hook(*([subject] if inspect.signature(hook).parameters else []))


def run_maybe_async(function: Any, arguments: dict[str, Any]) -> Any:
    value = function(**arguments)
    if inspect.iscoroutine(value):
        import asyncio  # few tests need it

        return asyncio.run(value)
    return value


def is_skipped(marks: list[Mark]) -> bool:
    """Whether the marks say that a test is not to be run, or that its failure is expected. Raises Unsupported."""
    for mark in marks:
        condition = mark.args[0] if mark.args else mark.kwargs.get("condition", True)
        if mark.name in ("skip", "xfail") or (mark.name == "skipif" and condition):
            return True
        if mark.name not in HARMLESS_MARKS | {"parametrize", "usefixtures", "skipif"} and mark.args:
            raise Unsupported(f"the tests use pytest.mark.{mark.name}, which the judge does not have")
    return False


def expand_parameters(marks: list[Mark]) -> Iterator[dict[str, Any]]:
    """The arguments of each run of a parametrized test."""
    choices: list[list[dict[str, Any]]] = []
    for mark in marks:
        if mark.name == "parametrize":
            names, rows = read_parametrize(*mark.args, **mark.kwargs)
            kept = [row for row in rows if not (isinstance(row, Param) and is_skipped(list(row.marks)))]
            values = [row.values if isinstance(row, Param) else (row,) if len(names) == 1 else row for row in kept]
            choices.append([dict(zip(names, row, strict=True)) for row in values])
    for combination in itertools.product(*choices):
        yield {name: value for part in combination for name, value in part.items()}


def read_parametrize(argnames: Any, argvalues: Any, indirect: Any = False, ids: Any = None, scope: Any = None) -> Any:
    if indirect:
        raise Unsupported("a test is parametrized through its fixtures")
    names = (
        [name.strip() for name in argnames.split(",") if name.strip()] if isinstance(argnames, str) else list(argnames)
    )
    return names, list(argvalues)


@contextmanager
def capture_output() -> Iterator[Any]:
    """`capsys`: what the test and the program print, which the judge hands on as it is told of it."""
    kept = sys.stdout, sys.stderr
    printed = [io.StringIO(), io.StringIO()]

    def read() -> Captured:
        captured = Captured(*(stream.getvalue() for stream in printed))
        for stream in printed:
            stream.seek(0)
            stream.truncate()
        return captured

    sys.stdout, sys.stderr = printed
    try:
        yield types.SimpleNamespace(readouterr=read, disabled=contextlib.nullcontext)
    finally:
        sys.stdout, sys.stderr = kept
