"""Run programs on a SandboxFusion server: other languages, and clusters that have one.

Outputs and results are compared here, as with the local sandbox. Assertion tests are the exception: they run beside
the program on the server, which proves its end by a nonce that is new with every call. A program that looks for that
nonce in its own process could forge it, which the local sandbox does not allow.
API: POST /run_code of bytedance/SandboxFusion.
"""

import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from reward_fns.code.inside.judge import is_expected
from reward_fns.code.problem import Problem
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
    """(code to send, stdin to send, what tells from stdout whether the test passed)."""
    nonce = secrets.token_hex(16)
    if problem.kind == "stdio":
        stdin, expected = case
        return source, stdin, lambda out: same_output(out, expected)
    if problem.kind == "call":
        args, expected = case
        code = f"{source}\n{CALL.format(name=problem.entry_point, nonce=nonce)}"
        return code, json.dumps(args), lambda out: prints_expected(out, nonce, expected)
    check = f"check({problem.entry_point})" if "def check(" in str(case) else ""
    code = f"{source}\n{problem.setup}\n{case}\n{check}\nprint({nonce!r})\n"
    return code, "", lambda out: out.rstrip().endswith(nonce)


CALL = """
import json as _json, sys as _sys
_target = globals().get({name!r}) or getattr(globals()["Solution"](), {name!r})
print({nonce!r} + _json.dumps(_target(*_json.loads(_sys.stdin.read())), default=list))
"""


def prints_expected(out: str, nonce: str, expected: object) -> bool:
    try:
        return is_expected(json.loads(out.rstrip().rsplit(nonce, 1)[1]), expected)
    except (IndexError, ValueError):
        return False
