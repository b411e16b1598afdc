"""Run programs on a SandboxFusion server: other languages, and clusters that have one.

Outputs and results are compared here, as with the local sandbox. Assertion tests are the exception: they run beside
the program on the server, which proves its end by a nonce that is new with every call. A program that looks for that
nonce in its own process could forge it, which the local sandbox does not allow.
API: POST /run_code of bytedance/SandboxFusion.
"""

import ast
import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from reward_fns.code import digits
from reward_fns.code.extract import put_before
from reward_fns.code.inside import collect, leetcode
from reward_fns.code.inside.judge import is_expected
from reward_fns.code.problem import Problem, parse_code
from reward_fns.code.sandbox import Limits, SandboxError

ATTEMPTS = 3
PAUSE_SECONDS = 0.5


class FusionError(SandboxError):
    """The server could not be reached, or failed; nothing is known about the program."""


class SandboxFusion:
    """A client of the server at `url` (with or without a final /run_code)."""

    def __init__(self, url: str):
        self.url = url.rstrip("/").removesuffix("/run_code") + "/run_code"

    def run(
        self, source: str, problem: Problem, limits: Limits, partial: bool, same_output: Callable[[str, str], bool]
    ) -> tuple[list[bool], str]:
        """As the local sandbox: (one verdict per test that ran, why the first failure failed). Raises FusionError."""
        passed: list[bool] = []
        first = ""
        for case in problem.cases:
            code, stdin, good = prepare_run(source, case, problem, same_output)
            result = self.execute(code, stdin, problem.language, limits)
            ended = result["status"] == "Finished" and result.get("return_code") == 0
            right = ended and good(str(result.get("stdout") or ""))
            passed.append(right)
            if not right:
                first = first or ("time limit" if "Time" in str(result["status"]) else "wrong output or exit code")
                if not partial:
                    break
        return passed, first

    def execute(self, code: str, stdin: str, language: str, limits: Limits) -> dict[str, object]:
        """The run_result of one run (of the compilation, when that failed)."""
        body = {"code": code, "stdin": stdin, "language": language, "run_timeout": limits.wall,
                "compile_timeout": limits.wall, "memory_limit_MB": limits.memory >> 20}  # fmt: skip
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers, method="POST")
        for attempt in range(ATTEMPTS):
            try:
                with urllib.request.urlopen(request, timeout=limits.wall * 2 + 10) as answer:
                    reply = dict(json.load(answer))
                break
            except (urllib.error.URLError, TimeoutError, ValueError, ConnectionError) as error:
                if attempt == ATTEMPTS - 1:
                    raise FusionError(f"{self.url}: {error}") from error
                time.sleep(PAUSE_SECONDS * 2**attempt)
        compiled, ran = reply.get("compile_result") or {}, reply.get("run_result")
        if reply.get("status") == "SandboxError" or not (ran or compiled):
            raise FusionError(f"{self.url}: {reply.get('message') or 'no run_result in the reply'}")
        return ran or {**compiled, "return_code": compiled.get("return_code") or 1}


def prepare_run(
    source: str, case: Any, problem: Problem, same_output: Callable[[str, str], bool]
) -> tuple[str, str, Callable[[str], bool]]:
    """(code to send, stdin to send, what tells from stdout whether the test passed). Raises SandboxError for tests that only the
    local judge can run."""
    nonce = secrets.token_hex(16)
    if problem.kind == "stdio":
        stdin, expected = case
        return source, stdin, lambda out: same_output(out, expected)
    if problem.conventions:
        source = put_before(NAMES.format(modules=leetcode.OPEN_MODULES, named=leetcode.NAMED_MODULES), source)
    if problem.kind == "call":
        args, expected = case
        code = f"{source}\n{CALL.format(name=problem.function, nonce=nonce)}"
        return code, digits.dump_numbers(args), lambda out: prints_expected(out, nonce, expected)
    code = f"{source}\n{HARNESS}\n{problem.setup}\n{standalone_test(str(case), problem)}\nprint(_made[0], {nonce!r})\n"
    return code, "", lambda out: asserted(out, nonce)


def standalone_test(test: str, problem: Problem) -> str:
    """A test as code that runs by itself: what it says, then calls of the tests that it defines."""
    tree = parse_code(test)
    lines = []
    for node in tree.body:
        name = getattr(node, "name", "")
        if isinstance(node, ast.ClassDef) and "TestCase" in " ".join(map(ast.unparse, node.bases)):
            lines.append(UNIT_TESTS.format(name=name))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (name == "check" or name.startswith("test")):
            takes = len(node.args.args) - len(node.args.defaults)
            if takes > (name == "check") or node.decorator_list:
                raise SandboxError(f"{name} takes arguments from a test runner: grade it in the local sandbox")
            call = f"{name}({problem.entry_point if takes else ''})"
            call = f"__import__('asyncio').run({call})" if isinstance(node, ast.AsyncFunctionDef) else call
            lines.append(f"if {name!r} not in _entered: {call}")
        elif isinstance(node, ast.ClassDef) and name.startswith("Test"):
            raise SandboxError(f"{name} is a class for a test runner: grade it in the local sandbox")
        elif isinstance(node, ast.Import | ast.ImportFrom) and "pytest" in ast.unparse(node):
            raise SandboxError("the tests import pytest: grade them in the local sandbox")
    with digits.reading(test):
        return "\n".join([ast.unparse(collect.rewrite_tests(tree)), *lines])


NAMES = """
import builtins as _builtins, importlib as _importlib
for _name in "{named}".split():
    setattr(_builtins, _name, _importlib.import_module(_name))
for _name in "{modules}".split():
    _module = _importlib.import_module(_name)
    for _key in getattr(_module, "__all__", None) or [_key for _key in vars(_module) if _key[0] != "_"]:
        hasattr(_builtins, _key) or setattr(_builtins, _key, getattr(_module, _key))
"""
CALL = """
import json as _json, sys as _sys
_target = globals().get({name!r}) or getattr(globals()["Solution"](), {name!r})
print({nonce!r} + _json.dumps(_target(*_json.loads(_sys.stdin.read())), default=list))
"""
# The counterpart of what the local judge puts into the namespace of tests.
HARNESS = """
import sys as _sys
_sys.modules["solution"] = _sys.modules["__main__"]
_made, _entered = [0], set()
def __step__(name=""):
    _entered.add(name)
def __check__(name=""):
    _made[0] += 1
    _entered.add(name)
def __checked__(function):
    _made[0] += 1
    return function
def __guard__():
    if isinstance(_sys.exc_info()[1], AssertionError):
        raise _sys.exc_info()[1]
"""
UNIT_TESTS = """
import unittest as _unittest
_outcome = _unittest.TestResult()
_unittest.defaultTestLoader.loadTestsFromTestCase({name}).run(_outcome)
assert _outcome.wasSuccessful()
"""


def asserted(out: str, nonce: str) -> bool:
    """Whether the tests ended. Raises SandboxError when they made no assertion on their way."""
    made, _, last = out.rstrip().rpartition("\n")[2].partition(" ")
    if last == nonce and made == "0":
        raise SandboxError("the tests made no assertion")
    return last == nonce


def prints_expected(out: str, nonce: str, expected: object) -> bool:
    try:
        return is_expected(json.loads(out.rstrip().rsplit(nonce, 1)[1]), expected)
    except (IndexError, ValueError):
        return False
