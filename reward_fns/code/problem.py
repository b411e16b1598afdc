"""The tests of an exercise, read from the schemas in use into one of three kinds.

- stdin/stdout: `{"inputs": [...], "outputs": [...]}` (APPS, TACO, code contests; also `{"input_output": json}`, and
  a list of `{"input", "output"}` rows as in LiveCodeBench)
- calls: the same with `"fn_name"`; inputs are argument lists
- assertions: `{"test_list": [...], "test_setup_code": ...}` (MBPP), `{"test": ..., "entry_point": ..., "prompt": ...}`
  (HumanEval), `{"assert_case": [...]}`, `{"functional": code}`, or bare code that asserts
"""

import ast
import json
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from reward_fns.code.inside.judge import BUILTINS, defined_names, outermost_calls


class BadTests(ValueError):
    """The ground truth is not a test that this module knows. A fault of the data, not of any answer."""


@dataclass(frozen=True)
class Problem:
    """`kind` is "stdio", "call" or "assert". `cases` holds (stdin, stdout) texts, (arguments, result) data, or test
    code; `setup` runs before assertions; `prompt` is the code that a bare function body continues."""

    kind: str
    cases: tuple[Any, ...]
    entry_point: str = ""
    setup: str = ""
    prompt: str = ""
    language: str = "python"


def read_problem(ground_truth: object) -> Problem:
    """The problem of a ground truth: JSON text, the same as data, or test code. Raises BadTests."""
    return read_problem_text(ground_truth) if isinstance(ground_truth, str) else parse_problem(ground_truth)


@lru_cache(maxsize=256)
def read_problem_text(text: str) -> Problem:
    """A prompt's tests are asked for once per rollout: read them once."""
    try:
        data = json.loads(text)
    except ValueError:
        data = {"functional": text} if "assert" in text else None
    return parse_problem(data)


def parse_problem(data: object) -> Problem:
    if isinstance(data, list) and data and all(isinstance(row, str) for row in data):
        data = {"test_list": data}
    if isinstance(data, list) and data and all(isinstance(row, dict) and "input" in row for row in data):
        return from_rows(data)
    if not isinstance(data, dict):
        raise BadTests(f"the tests are {type(data).__name__}, not one of the schemas that docs/rewards.md lists")
    if isinstance(data.get("input_output"), str):
        data = {**data, **json.loads(data["input_output"])}
    for keys, reader in READERS:
        if all(key in data for key in keys):
            problem = reader(data)
            if not problem.cases:
                raise BadTests("the problem has no test")
            return problem
    raise BadTests(f"the tests have the keys {sorted(data)}, no schema that docs/rewards.md lists")


def from_pairs(data: dict[str, object]) -> Problem:
    inputs, outputs = list(data["inputs"]), list(data["outputs"])  # type: ignore[call-overload]
    if len(inputs) != len(outputs):
        raise BadTests(f"{len(inputs)} inputs, but {len(outputs)} outputs")
    name = str(data.get("fn_name") or "")
    if name:
        return Problem("call", tuple((call_arguments(i), o) for i, o in zip(inputs, outputs, strict=True)), name)
    pairs = tuple((as_text(i), as_text(o)) for i, o in zip(inputs, outputs, strict=True))
    return Problem("stdio", pairs, language=str(data.get("language") or "python").lower())


def call_arguments(value: object) -> list[object]:
    """An argument list: as data, or as LiveCodeBench writes it, one JSON value a line."""
    if isinstance(value, str):
        return [json.loads(line) for line in value.splitlines() if line.strip()]
    return list(value) if isinstance(value, list | tuple) else [value]


def as_text(value: object) -> str:
    return "\n".join(map(str, value)) + "\n" if isinstance(value, list) else str(value)


def from_rows(rows: list[dict[str, object]]) -> Problem:
    data: dict[str, object] = {"inputs": [r["input"] for r in rows], "outputs": [r.get("output", "") for r in rows]}
    name = next((r[key] for r in rows for key in ("fn_name", "func_name") if r.get(key)), None)
    if name and rows[0].get("testtype") == "functional":
        data["outputs"] = [_read_output(output) for output in data["outputs"]]  # type: ignore[attr-defined]
    return from_pairs({**data, "fn_name": name} if name else data)


def _read_output(output: object) -> object:
    try:
        return json.loads(str(output))
    except ValueError as error:
        raise BadTests(f"the output {str(output)[:60]!r} of a functional test is not JSON") from error


def from_test_list(data: dict[str, object]) -> Problem:
    given = data["test_list"] if "test_list" in data else data["assert_case"]
    tests = [str(test) for test in given]  # type: ignore[attr-defined]
    imports = "\n".join(data.get("test_imports") or [])  # type: ignore[arg-type]
    setup = f"{imports}\n{data.get('test_setup_code') or ''}".strip()
    entry_point = data.get("fn_name") or data.get("entry_point") or tested_function(tests)
    return Problem("assert", tuple(tests), str(entry_point), setup)


def from_humaneval(data: dict[str, object]) -> Problem:
    """What the prompt defines besides the wanted function belongs to the tests, and the answer cannot change it."""
    entry, prompt, setup = str(data["entry_point"]), str(data.get("prompt") or ""), ""
    with suppress(SyntaxError):
        tree = ast.parse(f"{prompt.rstrip()}\n    pass\n")
        setup = ast.unparse(ast.Module([node for node in tree.body if getattr(node, "name", "") != entry], []))
    return Problem("assert", (str(data["test"]),), entry, setup, prompt)


def from_code(data: dict[str, object]) -> Problem:
    """Code that asserts: one test, or one for each assertion when it is nothing but assertions."""
    code = str(data["functional"])
    entry_point = str(data.get("entry_point") or tested_function([code]))
    statements = ast.parse(code).body
    alone = all(isinstance(statement, ast.Assert) for statement in statements)
    return Problem("assert", tuple(map(ast.unparse, statements)) if alone else (code,), entry_point)


def tested_function(tests: list[str]) -> str:
    """The one function under test, or "" when there is no single one: what assertions call first, else what they call
    at all. A built-in name counts only where nothing else is called (MBPP has exercises that ask for a `sum`)."""
    try:
        trees = [ast.parse(test) for test in tests]
    except SyntaxError as error:
        raise BadTests(f"a test is no Python: {error}") from error
    outermost = {name for tree in trees for name in outermost_calls(tree)}
    calls = [node.func for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    for names in (outermost - BUILTINS, called - BUILTINS - defined_names(trees), outermost):
        if names:
            return names.pop() if len(names) == 1 else ""
    return ""


READERS = (
    (("test_list",), from_test_list),
    (("test", "entry_point"), from_humaneval),
    (("inputs", "outputs"), from_pairs),
    (("assert_case",), from_test_list),
    (("functional",), from_code),
)
