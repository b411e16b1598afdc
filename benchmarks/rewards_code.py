"""Code rewards with isolation on, against VeRL's own `prime_code`, on the same MBPP solutions in one run.

`python benchmarks/rewards_code.py --mbpp FILE` prints one JSON object: programs per second of prime_code (one after
another, as VeRL calls it, no isolation), of this package one after another, and with one caller per core; the ratios;
and how many programs each passed. prime_code gets the tests as calls, the only form it takes.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from verl.utils.reward_score import prime_code

import reward_fns

SLOW = 0.5  # seconds; a solution that computes for longer measures the solution
Task = tuple[str, dict[str, object]]  # program, tests as calls


def as_calls(row: dict[str, object]) -> Task | None:
    """An MBPP row whose assertions all are `assert f(literals) == literal`, as fn_name, inputs and outputs."""
    inputs, outputs, names = [], [], set()
    for test in row["test_list"]:  # type: ignore[attr-defined]
        expression = ast.parse(test).body[0].test  # type: ignore[attr-defined]
        try:
            names.add(expression.left.func.id)
            inputs.append([ast.literal_eval(argument) for argument in expression.left.args])
            outputs.append(ast.literal_eval(expression.comparators[0]))
            if json.loads(json.dumps([inputs, outputs])) != [inputs, outputs]:
                return None  # tuples, sets: no calls in JSON
        except (AttributeError, ValueError, TypeError):
            return None
    return (
        (str(row["code"]), {"fn_name": names.pop(), "inputs": inputs, "outputs": outputs}) if len(names) == 1 else None
    )


def peer(task: Task) -> bool:
    program, tests = task
    as_text = {**tests, "inputs": ["\n".join(map(json.dumps, i)) for i in tests["inputs"]],  # type: ignore[attr-defined]
               "outputs": [json.dumps(o) for o in tests["outputs"]]}  # type: ignore[attr-defined]  # fmt: skip
    try:
        return prime_code.compute_score(f"```python\n{program}\n```", json.dumps(as_text))[0] is True
    except UnboundLocalError:  # VeRL 0.9.1 leaves metadata_list unset when a program fails
        return False


def ours(task: Task) -> bool:
    program, tests = task
    return reward_fns.grade("mbpp", f"```python\n{program}\n```", json.dumps(tests))["acc"] == 1.0


def seconds_of(task: Task) -> float:
    begin = time.perf_counter()
    ours(task)
    return time.perf_counter() - begin


def per_second(run: Callable[[Task], bool], tasks: list[Task], callers: int) -> tuple[float, int]:
    begin = time.perf_counter()
    with ThreadPoolExecutor(callers) as threads:
        passed = sum(threads.map(run, tasks)) if callers > 1 else sum(map(run, tasks))
    return round(len(tasks) / (time.perf_counter() - begin), 1), passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mbpp", type=Path, required=True, help="mbpp.jsonl")
    parser.add_argument("--programs", type=int, default=150)
    chosen = parser.parse_args()
    rows = [json.loads(line) for line in chosen.mbpp.read_text().splitlines()]
    tasks = [task for row in rows if (task := as_calls(row))][: chosen.programs]
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # also starts every sandbox before the clock
        tasks = [task for task, seconds in zip(tasks, threads.map(seconds_of, tasks), strict=True) if seconds < SLOW]
    theirs, passed_theirs = per_second(peer, tasks, 1)
    single, passed_single = per_second(ours, tasks, 1)
    full, passed_full = per_second(ours, tasks, os.cpu_count() or 1)
    result = {
        "programs": len(tasks),
        "cores": os.cpu_count(),
        "prime_code": theirs,
        "one_caller": single,
        "a_caller_per_core": full,
        "ratio_one_caller": round(single / theirs, 1),
        "ratio": round(full / theirs, 1),
        "scaling": round(full / single, 2),
        "passed": [passed_theirs, passed_single, passed_full],
    }
    print(json.dumps(result, indent=2))
    reward_fns.close()


if __name__ == "__main__":
    main()
