"""What numpy in the sandbox of code rewards costs: `python benchmarks/sandbox.py [ROUNDS]`.

Prints one JSON object: with and without numpy, milliseconds from nothing to the end of a first program, MiB of the warm
process, and programs a second of one caller (a function of one line, three assertions). Medians of ROUNDS (5).
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import psutil

from reward_fns.code.sandbox import Limits, Sandbox, SandboxPool

PROGRAMS = 100
SPEC: dict[str, object] = {"kind": "assert", "tests": ["assert f(2) == 4", "assert f(3) == 9", "assert f(0) == 0"]}
Figures = dict[str, float]


def measured(packages: tuple[str, ...]) -> Figures:
    """One round, in a sandbox of its own."""
    pool = SandboxPool(1, packages=packages)  # finds the interpreter, once a process: not counted
    begin = time.perf_counter()
    with pool.sandbox() as box:
        box.run_script("", "", Limits())
        started = time.perf_counter()
        for _ in range(PROGRAMS):
            if box.run_tests("def f(x): return x * x", SPEC, Limits())["passed"] != [True, True, True]:
                raise SystemExit("a right program failed")
        ended = time.perf_counter()
        mib = warm(box)
    pool.close()
    return {"start_ms": 1e3 * (started - begin), "warm_mib": mib, "programs_a_second": PROGRAMS / (ended - started)}


def warm(box: Sandbox) -> float:
    return max(each.memory_info().rss for each in psutil.Process(box.server.process.pid).children(recursive=True)) / (
        1 << 20
    )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    found: dict[str, list[Figures]] = {"without": [], "with_numpy": []}
    for _ in range(rounds):
        for name, packages in (("without", ()), ("with_numpy", ("numpy",))):
            found[name].append(measured(packages))
    medians = {
        name: {key: round(statistics.median(one[key] for one in each), 1) for key in each[0]}
        for name, each in found.items()
    }
    print(json.dumps(medians, indent=2))


if __name__ == "__main__":
    main()
