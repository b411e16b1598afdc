"""The tests of an exercise, read from the schemas in use into one of three kinds.

- stdin/stdout: `{"inputs": [...], "outputs": [...]}` (APPS, TACO, code contests; also `{"input_output": json}`, and
  a list of `{"input", "output"}` rows as in LiveCodeBench)
- calls: the same with `"fn_name"`; inputs are argument lists, or texts with one JSON value a line, as VeRL has them
- assertions: `{"test_list": [...], "test_setup_code": ...}` (MBPP), `{"test": ..., "entry_point": ..., "prompt": ...}`
  (HumanEval, LeetCodeDataset), `{"assert_case": [...]}`, `{"functional": code}`, or bare code that asserts
"""

import ast
import json
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from reward_fns.code import digits
from reward_fns.code.inside import collect

ENTRY_METHOD = re.compile(r"(\w+)\(\)\.(\w+)")


class BadTests(ValueError):
    """The ground truth is not a test that this module knows. A fault of the data, not of any answer."""


@dataclass(frozen=True)
class Problem:
    """`kind` is "stdio", "call" or "assert". `cases` holds (stdin, stdout) texts, (arguments, result) data, or test
    code; `setup` runs before assertions; `prompt` is the code that a bare function body continues. `names` are those
    that assertions take from the program, `classes` those of them that they treat as classes. `unusable` says why no
    program can be judged by these tests, or is empty."""

    kind: str
    cases: tuple[Any, ...]
    entry_point: str = ""
    setup: str = ""
    prompt: str = ""
    language: str = "python"
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    unusable: str = ""

    @property
    def function(self) -> str:
        """The name of the function under test: `twoSum` of the entry point `Solution().twoSum`."""
        named = ENTRY_METHOD.fullmatch(self.entry_point)
        return named[2] if named else self.entry_point

    @property
    def conventions(self) -> bool:
        """Whether programs may use the names that LeetCode puts in scope."""
        return self.kind == "call" or ENTRY_METHOD.fullmatch(self.entry_point) is not None


def read_problem(ground_truth: object) -> Problem:
    """The problem of a ground truth: JSON text, the same as data, or test code. Raises BadTests."""
    return read_problem_text(ground_truth) if isinstance(ground_truth, str) else parse_problem(ground_truth)


@lru_cache(maxsize=256)
def read_problem_text(text: str) -> Problem:
    """A prompt's tests are asked for once per rollout: read them once."""
    try:
        data = digits.load_numbers(text)
    except ValueError as error:
        data = read_bare_code(text, error)
    return parse_problem(data)


def read_bare_code(text: str, fault: ValueError) -> dict[str, str]:
    """Tests that are not JSON, for which `fault` says why: code that asserts. Raises BadTests."""
    is_json = text.lstrip()[:1] in ("{", "[")  # it was meant to be
    try:
        asserts = collect.asserts(parse_tests([text])[0])
    except BadTests as error:
        if is_json:
            raise BadTests(f"the tests are not JSON: {fault}") from error
        raise
    if asserts or ("assert" in text and not is_json):
        return {"functional": text}
    raise BadTests(f"the tests are not JSON: {fault}" if is_json else "the tests are code that makes no assertion")


def parse_problem(data: object) -> Problem:
    if isinstance(data, list) and data and all(isinstance(row, str) for row in data):
        data = {"test_list": data}
    if isinstance(data, list) and data and all(isinstance(row, dict) and "input" in row for row in data):
        return find_faults(from_rows(data))
    if not isinstance(data, dict):
        raise BadTests(f"the tests are {type(data).__name__}, not one of the schemas that docs/rewards.md lists")
    if isinstance(data.get("input_output"), str):
        data = {**data, **digits.load_numbers(data["input_output"])}
    if data.get("checker") or data.get("generated_checker"):
        raise BadTests("the problem has several right outputs and a checker of its own, which is not supported")
    for keys, reader in READERS:
        if all(data.get(key) is not None for key in keys):
            problem = reader(data)
            if not problem.cases:
                raise BadTests("the problem has no test")
            return find_faults(problem)
    raise BadTests(f"the tests have the keys {sorted(data)}, no schema that docs/rewards.md lists")


def find_faults(problem: Problem) -> Problem:
    """The problem with what the judge needs to know of its tests, and whether they can judge anything. Raises BadTests."""
    if not problem.cases:
        return replace(problem, unusable="there are no tests")
    if problem.kind == "stdio":
        silent = not any(str(expected).strip() for _, expected in problem.cases)
        return replace(problem, unusable="every expected output is empty: the tests prove nothing" if silent else "")
    if problem.kind == "call":
        return problem
    trees = parse_tests([problem.setup, *problem.cases])
    unusable = collect.why_unsupported(trees)
    if not any(collect.reaches_assertion(tree, problem.entry_point) for tree in trees):
        unusable = "no assertion of the tests can run: they prove nothing"
    names = collect.wanted_names(trees, problem.entry_point)
    classes = collect.names_treated_as_classes(trees)
    return replace(problem, unusable=unusable, names=tuple(names), classes=tuple(sorted(classes)))


def parse_tests(tests: list[str]) -> list[ast.Module]:
    try:
        return [parse_code(test) for test in tests]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadTests(f"a test is no Python that can be read: {error}") from error


def parse_code(code: str) -> ast.Module:
    with digits.reading(code):
        return ast.parse(code)


def from_pairs(data: dict[str, Any]) -> Problem:
    inputs, outputs = list(data["inputs"]), list(data["outputs"])
    if len(inputs) != len(outputs):
        raise BadTests(f"{len(inputs)} inputs, but {len(outputs)} outputs")
    name = str(data.get("fn_name") or data.get("func_name") or "")
    if name:
        pairs = [(call_arguments(i), call_result(i, o)) for i, o in zip(inputs, outputs, strict=True)]
        return Problem("call", tuple(pairs), name)
    texts = tuple((as_text(i), as_text(o)) for i, o in zip(inputs, outputs, strict=True))
    return Problem("stdio", texts, language=str(data.get("language") or "python").lower())


def call_arguments(value: object) -> list[object]:
    """An argument list: as data, or as VeRL and LiveCodeBench write it, one JSON value a line."""
    if isinstance(value, str):
        return [read_value(line) for line in value.splitlines() if line.strip()]
    return list(value) if isinstance(value, list | tuple) else [value]


def call_result(given: object, expected: object) -> object:
    """What a call is to give. Where the arguments are text, so is it."""
    return read_value(expected) if isinstance(given, str) and isinstance(expected, str) else expected


def read_value(text: str) -> object:
    """A value written in JSON, or else in Python; a text that is neither stands for itself."""
    with suppress(ValueError):
        return digits.load_numbers(text)
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError), digits.reading(text):
        return ast.literal_eval(text.strip())
    return text


def as_text(value: object) -> str:
    if isinstance(value, list):
        return "\n".join(map(as_line, value)) + "\n"
    return as_line(value)


def as_line(value: object) -> str:
    return value if isinstance(value, str) else digits.dump_numbers(value) if isinstance(value, int) else str(value)


def from_rows(rows: list[dict[str, Any]]) -> Problem:
    """Rows of LiveCodeBench. The function under test is named in the row or in its `metadata`."""
    data: dict[str, Any] = {"inputs": [r["input"] for r in rows], "outputs": [r.get("output", "") for r in rows]}
    name = next(filter(None, map(function_name, rows)), "")
    functional = [row.get("testtype") == "functional" for row in rows]
    if any(functional) and not (name and all(functional)):
        raise BadTests(
            "functional tests without the name of a function" if not name else "tests of two kinds in one row"
        )
    # A name beside tests of standard input is that of the example, not of a call.
    return from_pairs(
        {**data, "fn_name": name} if name and not any(row.get("testtype") == "stdin" for row in rows) else data
    )


def function_name(row: dict[str, Any]) -> str:
    metadata = row.get("metadata")
    if isinstance(metadata, str):
        with suppress(ValueError):
            metadata = json.loads(metadata)
    places = (row, metadata if isinstance(metadata, dict) else {})
    return next((str(place[key]) for place in places for key in ("fn_name", "func_name") if place.get(key)), "")


def from_test_list(data: dict[str, Any]) -> Problem:
    given = data.get("test_list") or data.get("assert_case") or []
    tests = [str(test) for test in given]
    imports = "\n".join(data.get("test_imports") or [])
    setup = f"{imports}\n{data.get('test_setup_code') or ''}".strip()
    entry_point = data.get("fn_name") or data.get("entry_point") or tested_function(tests)
    return Problem("assert", tuple(tests), str(entry_point), setup)


def from_humaneval(data: dict[str, Any]) -> Problem:
    """What the prompt defines besides the wanted function belongs to the tests, and the answer cannot change it."""
    entry, prompt, setup = str(data["entry_point"]), str(data.get("prompt") or ""), ""
    wanted = {entry, *ENTRY_METHOD.findall(entry)[0]} if ENTRY_METHOD.fullmatch(entry) else {entry}
    for whole in (prompt, f"{prompt.rstrip()}\n    pass\n"):
        with suppress(SyntaxError), digits.reading(whole):
            tree = ast.parse(whole)
            setup = ast.unparse(ast.Module([node for node in tree.body if getattr(node, "name", "") not in wanted], []))
            break
    return Problem("assert", (str(data["test"]),), entry, setup, prompt)


def from_code(data: dict[str, Any]) -> Problem:
    """Code that asserts: one test, or one for each assertion when it is nothing but assertions."""
    code = str(data["functional"])
    entry_point = str(data.get("entry_point") or tested_function([code]))
    with digits.reading(code):
        statements = parse_tests([code])[0].body
        alone = all(isinstance(statement, ast.Assert) for statement in statements)
        cases: tuple[str, ...] = (code,)
        if alone:
            with suppress(RecursionError):  # an expression too deep to be written again stays where it is
                cases = tuple(map(ast.unparse, statements))
    return Problem("assert", cases, entry_point)


def tested_function(tests: list[str]) -> str:
    """The one function under test, or "" when there is no single one: what assertions call first, else what they call
    at all. A built-in name counts only where nothing else is called (MBPP has exercises that ask for a `sum`)."""
    trees = parse_tests(tests)
    outermost = {name for tree in trees for name in collect.outermost_calls(tree)}
    calls = [node.func for tree in trees for node in collect.walk(tree) if isinstance(node, ast.Call)]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    own = collect.BUILTINS | collect.defined_names(trees) - collect.names_from_solution(trees)
    for names in (outermost - own, called - own, outermost & collect.BUILTINS):
        if names:
            return names.pop() if len(names) == 1 else ""
    return ""


READERS = (
    (("test_list",), from_test_list),
    (("assert_case",), from_test_list),
    (("test", "entry_point"), from_humaneval),
    (("inputs", "outputs"), from_pairs),
    (("functional",), from_code),
)
