"""Grade a completion by running the program in it against the tests of its exercise."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import replace

from reward_fns.code import extract
from reward_fns.code import packages as shown_packages
from reward_fns.code.fusion import FusionError, SandboxFusion
from reward_fns.code.problem import BadTests, Problem, read
from reward_fns.code.sandbox import Limits, Sandbox, SandboxError, SandboxPool
from reward_fns.grades import Grade

TOLERANCE = 1e-6
DECIMAL = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?")
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")

_pools: dict[tuple[int | None, tuple[str, ...]], SandboxPool] = {}
_pools_lock = threading.Lock()


def pool(size: int | None = None, packages: Sequence[str] = ()) -> SandboxPool:
    """The process-wide pool of `size` sandboxes (default: this process's share of the cores) that show `packages`.

    Raises SandboxUnavailable, and ValueError for a package that no sandbox shows."""
    key = size, shown_packages.chosen(packages)
    with _pools_lock:
        if key not in _pools:
            _pools[key] = SandboxPool(size, packages=key[1])
        return _pools[key]


def close() -> None:
    """End every sandbox. The next call starts them again."""
    with _pools_lock:
        while _pools:
            _pools.popitem()[1].close()


def forget() -> None:
    """Drop the sandboxes without ending them: they belong to the process that forked this one."""
    global _pools, _pools_lock
    _pools, _pools_lock = {}, threading.Lock()


def grade_code(
    solution_str: str,
    ground_truth: object,
    extra_info: dict[str, object] | None = None,
    *,
    partial: bool = False,
    limit: float = 10.0,
    memory_mb: int = 1024,
    workers: int | None = None,
    sandbox_url: str = "",
    packages: Sequence[str] = (),
) -> Grade:
    """All tests passed, or with `partial` the share that passed.

    `limit` is seconds of wall clock: for all assertions or calls together, and for each stdin/stdout test. A
    `sandbox_url` grades on a SandboxFusion server. `packages` are shown to program and tests besides the standard
    library (`code.packages`). Raises BadTests for tests of an unknown schema, ValueError for a package that no sandbox
    shows, and SandboxUnavailable when model code cannot be isolated here."""
    problem = read(ground_truth)
    if problem.language != "python" and not sandbox_url:
        raise BadTests(f"{problem.language} programs need a SandboxFusion server: set sandbox_url")
    if problem.kind == "stdio" and not any(str(expected).strip() for _, expected in problem.cases):
        return Grade(verifier_error=1.0, why="every expected output is empty: the tests prove nothing")
    source = extract.program(solution_str, problem.entry_point, problem.language)
    if not source.text.strip():
        return Grade(why="no program")
    grade = Grade(format=float(source.fenced), answered=1.0)
    limits = Limits(wall=limit, memory=memory_mb << 20)
    try:
        code = complete(source.text, problem)
        if sandbox_url:
            passed, why = SandboxFusion(sandbox_url).run(code, problem, limits, partial, same_output)
        else:
            with pool(workers, packages).sandbox() as box:
                passed, why = run_local(box, code, problem, limits, partial)
    except (SandboxError, FusionError, OSError) as error:
        return replace(grade, verifier_error=1.0, why=str(error))
    return verdict(grade, passed, len(problem.cases), why, partial)


def verdict(grade: Grade, passed: list[bool], total: int, why: str, partial: bool) -> Grade:
    right = sum(passed)
    acc = float(right == total)
    score = right / total if partial else acc
    return replace(grade, score=score, acc=acc, pred=f"{right}/{total}" + (f" {why}" if why else ""), why=why)


def complete(source: str, problem: Problem) -> str:
    """The program to run: a bare body continues the prompt, a function may use what the prompt imports."""
    if not problem.prompt:
        return source
    defines = re.search(rf"^\s*(?:async )?def {re.escape(problem.entry_point)}\b", source, re.MULTILINE)
    return f"{problem.setup}\n{source}" if defines else problem.prompt + source


class TestsBroken(SandboxError):
    """The tests ask for something that the sandbox cannot do."""


def run_local(box: Sandbox, source: str, problem: Problem, limits: Limits, partial: bool) -> tuple[list[bool], str]:
    """(one verdict per test that ran, why the first failure failed)."""
    if problem.kind == "stdio":
        return run_stdio(box, source, problem, limits, partial)
    spec: dict[str, object] = {"kind": problem.kind, "entry_point": problem.entry_point, "all_or_nothing": not partial}
    spec |= {"calls": problem.cases} if problem.kind == "call" else {"setup": problem.setup, "tests": problem.cases}
    result = box.run_tests(source, spec, limits)
    passed = [bool(one) for one in result["passed"]]  # type: ignore[attr-defined]
    if result["unsupported"] and not all(passed):
        raise TestsBroken(str(result["why"]))
    return passed, str(result["why"])


def run_stdio(box: Sandbox, source: str, problem: Problem, limits: Limits, partial: bool) -> tuple[list[bool], str]:
    """A test passes when the program ends with code 0 and prints what is expected. After a limit the rest fails."""
    passed: list[bool] = []
    first = ""
    for stdin, expected in problem.cases:
        run = box.run_script(source, stdin, limits)
        good = not run.why and run.code == 0 and same_output(run.stdout, expected)
        passed.append(good)
        if not good:
            ending = f"{run.why} limit" if run.why else f"exit code {run.code}" if run.code else "wrong output"
            first = first or ending
            if run.why or not partial:
                break
    return passed, first


def same_output(given: str, expected: str) -> bool:
    """Equal line by line without trailing space and final blank lines; decimals compare at a relative 1e-6."""
    mine, theirs = lines(given), lines(expected)
    return mine == theirs or (len(mine) == len(theirs) and all(map(same_line, mine, theirs)))


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def same_line(given: str, expected: str) -> bool:
    mine, theirs = given.split(), expected.split()
    return len(mine) == len(theirs) and all(map(same_token, mine, theirs))


def same_token(given: str, expected: str) -> bool:
    if given == expected:
        return True
    if not (DECIMAL.fullmatch(expected) and NUMBER.fullmatch(given)):
        return False
    return abs(float(given) - float(expected)) <= TOLERANCE * max(1.0, abs(float(expected)))
