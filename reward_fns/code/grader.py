"""Grade a completion by running the program in it against the tests of its exercise."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from reward_fns.code import extract
from reward_fns.code.problem import BadTests, Problem, read_problem
from reward_fns.code.sandbox import Limits, Sandbox, SandboxError, SandboxPool, check_packages
from reward_fns.grades import Grade
from reward_fns.pools import shared_pool

TOLERANCE = 1e-6
DECIMAL = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?")
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def sandbox_pool(size: int | None = None, packages: Sequence[str] = ()) -> SandboxPool:
    """The process-wide pool of `size` sandboxes (default: this process's share of the cores) that show `packages`.

    Raises SandboxUnavailable, and ValueError for a package that no sandbox shows."""
    shown = check_packages(packages)
    return shared_pool(("code", size, shown), lambda: SandboxPool(size, packages=shown))


def grade_code(
    solution_str: str,
    ground_truth: object,
    extra_info: dict[str, object] | None = None,
    *,
    partial: bool = False,
    timeout: float = 10.0,
    memory_mb: int = 1024,
    workers: int | None = None,
    sandbox_url: str = "",
    packages: Sequence[str] = (),
) -> Grade:
    """All tests passed, or with `partial` the share that passed.

    `timeout` is seconds of wall clock: for all assertions or calls together, and for each stdin/stdout test. A
    `sandbox_url` grades on a SandboxFusion server. `packages` are shown to program and tests besides the standard
    library (`code.packages`). Raises BadTests for tests of an unknown schema, ValueError for a package that no sandbox
    shows, and SandboxUnavailable when model code cannot be isolated here."""
    problem = read_problem(ground_truth)
    if problem.language != "python" and not sandbox_url:
        raise BadTests(f"{problem.language} programs need a SandboxFusion server: set sandbox_url")
    if problem.unusable:
        return Grade(verifier_error=1.0, pred=problem.unusable, why=problem.unusable)
    source = extract.extract_program(solution_str, problem.function, problem.language)
    if not source.text.strip():
        return Grade(why="no program")
    grade = Grade(format=float(source.fenced), answered=1.0)
    limits = Limits(wall=timeout, memory=memory_mb << 20)
    try:
        code = complete_program(source.text, problem)
        if sandbox_url:
            from reward_fns.code.fusion import SandboxFusion  # HTTP, for which local grading need not pay

            passed, why = SandboxFusion(sandbox_url).run(code, problem, limits, partial, same_output)
        else:
            with sandbox_pool(workers, packages).sandbox() as box:
                passed, why = run_local(box, code, problem, limits, partial)
    except (SandboxError, OSError) as error:
        return replace(grade, verifier_error=1.0, pred=str(error), why=str(error))
    right, total = sum(passed), len(problem.cases)
    acc = float(right == total)
    pred = f"{right}/{total}" + (f" {why}" if why else "")
    return replace(grade, score=right / total if partial else acc, acc=acc, pred=pred, why=why)


def complete_program(source: str, problem: Problem) -> str:
    """The program to run: a bare body continues the prompt, a function may use what the prompt imports."""
    if not problem.prompt:
        return source
    defines = re.search(rf"^\s*(?:async )?def {re.escape(problem.function)}\b", source, re.MULTILINE)
    body = re.match(r"\s*?\n?[ \t]+\S", source) and not defines
    return problem.prompt + source if body else extract.put_before(problem.setup, source)


def run_local(box: Sandbox, source: str, problem: Problem, limits: Limits, partial: bool) -> tuple[list[bool], str]:
    """(one verdict per test that ran, why the first failure failed).

    A test of kind stdio passes when the program ends with code 0 and prints what is expected. After a limit the rest fails."""
    if problem.kind == "stdio":
        passed, first = [], ""
        for stdin, expected in problem.cases:
            run = box.run_script(source, stdin, limits)
            good = not run.why and run.code == 0 and same_output(run.stdout, expected)
            passed.append(good)
            if not good:
                ending = f"exit code {run.code}" if run.code else "wrong output"
                first = first or (f"{run.why} limit" if run.why else ending)
                if run.why or not partial:
                    break
        return passed, first
    spec: dict[str, object] = {"kind": problem.kind, "entry_point": problem.entry_point, "all_or_nothing": not partial}
    spec |= {"conventions": problem.conventions, "names": problem.names, "classes": problem.classes}
    spec |= {"calls": problem.cases} if problem.kind == "call" else {"setup": problem.setup, "tests": problem.cases}
    result = box.run_tests(source, spec, limits)
    passed = [bool(one) for one in result["passed"]]  # type: ignore[attr-defined]
    if result["unsupported"] and not all(passed):  # the tests ask for something that the sandbox cannot do
        raise SandboxError(str(result["why"]))
    return passed, str(result["why"])


def same_output(given: str, expected: str) -> bool:
    """Equal line by line without trailing space and final blank lines; decimals compare at a relative 1e-6."""
    mine, theirs = ([line.split() for line in text.rstrip().splitlines()] for text in (given, expected))
    alike = mine == theirs or list(map(len, mine)) == list(map(len, theirs))
    return alike and all(map(same_token, chain(*mine), chain(*theirs)))


def same_token(given: str, expected: str) -> bool:
    if given == expected:
        return True
    if not (DECIMAL.fullmatch(expected) and NUMBER.fullmatch(given)):
        return False
    return abs(float(given) - float(expected)) <= TOLERANCE * max(1.0, abs(float(expected)))
