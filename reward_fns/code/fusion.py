"""Run programs on a SandboxFusion server: other languages, and clusters that have one.

Outputs and results are compared here, as with the local sandbox. Assertion tests are the exception: they run beside
the program on the server, which proves its end by a word that is new with every call. A program that looks for that
word in its own process could forge it, which the local sandbox does not allow.
API: POST /run_code of bytedance/SandboxFusion.
"""

from __future__ import annotations

import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from reward_fns.code.inside.judge import alike
from reward_fns.code.problem import Problem
from reward_fns.code.sandbox import Limits

ATTEMPTS = 3
PAUSE_SECONDS = 0.5


class FusionError(RuntimeError):
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
            code, stdin, good = prepared(source, case, problem, same_output)
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
        reply = self.post(body, limits.wall * 2 + 10)
        compiled, ran = reply.get("compile_result") or {}, reply.get("run_result")
        if reply.get("status") == "SandboxError" or not (ran or compiled):
            raise FusionError(f"{self.url}: {reply.get('message') or 'no run_result in the reply'}")
        return ran or {**compiled, "return_code": compiled.get("return_code") or 1}

    def post(self, body: dict[str, object], seconds: float) -> dict[str, dict[str, object]]:
        request = urllib.request.Request(
            self.url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        for attempt in range(ATTEMPTS):
            try:
                with urllib.request.urlopen(request, timeout=seconds) as answer:
                    return dict(json.load(answer))
            except (urllib.error.URLError, TimeoutError, ValueError, ConnectionError) as error:
                if attempt == ATTEMPTS - 1:
                    raise FusionError(f"{self.url}: {error}") from error
                time.sleep(PAUSE_SECONDS * 2**attempt)
        raise AssertionError("unreachable")


def prepared(
    source: str, case: Any, problem: Problem, same_output: Callable[[str, str], bool]
) -> tuple[str, str, Callable[[str], bool]]:
    """(code to send, stdin to send, what tells from stdout whether the test passed)."""
    word = secrets.token_hex(16)
    if problem.kind == "stdio":
        stdin, expected = case
        return source, stdin, lambda out: same_output(out, expected)
    if problem.kind == "call":
        args, expected = case
        code = f"{source}\n{CALL.format(name=problem.entry_point, word=word)}"
        return code, json.dumps(args), lambda out: returned(out, word, expected)
    check = f"check({problem.entry_point})" if "def check(" in str(case) else ""
    code = f"{source}\n{problem.setup}\n{case}\n{check}\nprint({word!r})\n"
    return code, "", lambda out: out.rstrip().endswith(word)


CALL = """
import json as _json, sys as _sys
_target = globals().get({name!r}) or getattr(globals()["Solution"](), {name!r})
print({word!r} + _json.dumps(_target(*_json.loads(_sys.stdin.read())), default=list))
"""


def returned(out: str, word: str, expected: object) -> bool:
    try:
        value = json.loads(out.rstrip().rsplit(word, 1)[1])
    except (IndexError, ValueError):
        return False
    return alike(value, expected) or (isinstance(expected, list) and len(expected) == 1 and alike(value, expected[0]))
