r"""Math rewards against math-verify alone, on the same rows, one after the other in one run.

`python benchmarks/rewards_math.py [--gsm8k FILE]` prints one JSON object:

- `gsm8k`, `latex`: rows per second and core of this package and of math-verify, the ratio, and on how many rows the
  verdicts differ. GSM8K rows are the set's own solutions when the file is there (half of them with a wrong answer),
  made-up ones of the same form otherwise; LaTeX rows are made up with the mix of answer kinds that MATH-500 has.
- `latency_ms`: median and 99th percentile of one awaited call with 16 callers that pause 50 ms between calls, and the
  same with two adversarial callers beside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path

from math_verify import parse, verify

import reward_fns

Row = tuple[str, str]  # response, gold
WORK = "We have that $a_{%d} = %d$ and hence, adding \\( %d \\) to both sides, we get $x^2 - %d x + %d = 0$.\n"


def gsm8k_rows(path: Path | None, count: int, rng: random.Random) -> list[Row]:
    if path is not None and path.exists():
        solutions = [json.loads(line)["answer"] for line in path.read_text().splitlines()[:count]]
    else:
        solutions = [f"{WORK % (1, i, i, i, i) * 4}#### {i * 7}" for i in range(count)]
    rows = []
    for solution in solutions:
        working, gold = solution.split("####")
        answer = gold.strip() if rng.random() < 0.5 else str(rng.randint(1, 500))
        rows.append((f"{working}The answer is \\boxed{{{answer}}}", gold.strip()))
    return rows


def latex_rows(count: int, rng: random.Random) -> list[Row]:
    """Kinds in the shares of MATH-500: three in five integers, the rest fractions, roots, expressions, tuples ..."""
    rows = []
    for _ in range(count):
        make = rng.choices(list(KINDS), list(KINDS.values()))[0]
        gold, same, other = make(rng)
        answer = rng.choices([gold, same, other], [60, 15, 25])[0]
        working = "".join(WORK % tuple(rng.randint(1, 99) for _ in range(5)) for _ in range(5))
        rows.append((f"{working}Therefore, the answer is $\\boxed{{{answer}}}$.", f"${gold}$"))
    return rows


def integer(rng: random.Random) -> tuple[str, str, str]:
    n = rng.randint(-50, 2000)
    return str(n), f"{n}.0", str(n + rng.randint(1, 9))


def fraction(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.randint(1, 40), rng.randint(2, 41)
    return rf"\frac{{{a}}}{{{b}}}", rf"\dfrac{{{a}}}{{{b}}}", rf"\frac{{{a + 1}}}{{{b}}}"


def root(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.randint(2, 9), rng.choice([2, 3, 5, 7])
    return rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}", rf"{a + 1}\sqrt{{{b}}}"


def polynomial(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    return f"x^2+{a}x+{b}", f"{b}+{a}x+x^2", f"x^2+{a}x-{b}"


def pair(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.randint(-9, 9), rng.randint(10, 20)
    return f"({a},{b})", rf"\left( {a}, {b} \right)", f"({b},{a})"


def interval(rng: random.Random) -> tuple[str, str, str]:
    a = rng.randint(1, 20)
    return rf"(-\infty,{a}]", rf"(-\infty, {a}]", rf"(-\infty,{a})"


def word(rng: random.Random) -> tuple[str, str, str]:
    return r"\text{even}", "even", r"\text{odd}"


def degrees(rng: random.Random) -> tuple[str, str, str]:
    n = rng.randint(10, 170)
    return rf"{n}^\circ", str(n), rf"{n + 1}^\circ"


def equation(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.randint(2, 9), rng.randint(1, 9)
    return f"y={a}x+{b}", f"{a}x-y+{b}=0", f"y={a}x-{b}"


def trigonometric(rng: random.Random) -> tuple[str, str, str]:
    a = rng.randint(2, 9)
    return rf"{a}\sin x", rf"\sin x \cdot {a}", rf"{a}\cos x"


def matrix(rng: random.Random) -> tuple[str, str, str]:
    a, b, c, d = (rng.randint(-9, 9) for _ in range(4))
    return tuple(
        rf"\begin{{{k}matrix}}{a} & {b} \\ {c} & {e}\end{{{k}matrix}}" for k, e in (("p", d), ("b", d), ("p", d + 1))
    )


# In the shares of MATH-500, as far as its answers can be told apart by form.
KINDS = {integer: 60, fraction: 12, root: 7, polynomial: 6, pair: 5, interval: 2, word: 2, degrees: 1, equation: 2,
         trigonometric: 1, matrix: 2}  # fmt: skip


def alone(response: str, gold: str) -> float:
    return float(verify(parse(gold), parse(response)))


def ours(response: str, gold: str) -> float:
    return float(reward_fns.grade("math", response, gold)["acc"])


def per_second(grade: Callable[[str, str], float], rows: list[Row]) -> tuple[float, list[float]]:
    """Rows per second of wall clock and the verdicts. Both sides work one row at a time: on one core."""
    begin = time.perf_counter()
    verdicts = [grade(*row) for row in rows]
    return len(rows) / (time.perf_counter() - begin), verdicts


def compare(rows: list[Row]) -> dict[str, float]:
    ours(r"\boxed{\sin x}", r"\cos x")  # starts the worker processes
    for row in rows[:20]:  # imports, regular expressions, ANTLR tables
        alone(*row), ours(*row)
    theirs, expected = per_second(alone, rows)
    mine, verdicts = per_second(ours, rows)
    differing = sum(a != b for a, b in zip(expected, verdicts, strict=True))
    ratio = round(mine / theirs, 1)
    return {"rows": len(rows), "math_verify": round(theirs), "reward_fns": round(mine), "ratio": ratio,
            "verdicts_differ": differing}  # fmt: skip


async def latencies(rows: list[Row], beside: int) -> list[float]:
    """Seconds of each call with 16 callers that pause 50 ms, `beside` adversarial calls running all the time."""
    gate, seconds = asyncio.Semaphore(16), []
    stop = asyncio.Event()

    async def adversary() -> None:
        while not stop.is_set():
            await reward_fns.compute_score("math", r"\boxed{\prod_{k=1}^{3} 9^{9^{9^9}}}", "5", timeout=1.0)

    async def one(row: Row) -> None:
        async with gate:
            begin = time.perf_counter()
            await reward_fns.compute_score("math", *row)
            seconds.append(time.perf_counter() - begin)
            await asyncio.sleep(0.05)  # rollouts end one after another, not all at once

    hostile = [asyncio.create_task(adversary()) for _ in range(beside)]
    await asyncio.gather(*(one(row) for row in rows))
    stop.set()
    await asyncio.gather(*hostile)
    return sorted(seconds)


def spread(seconds: list[float]) -> dict[str, float]:
    return {
        "median": round(seconds[len(seconds) // 2] * 1e3, 2),
        "p99": round(seconds[int(len(seconds) * 0.99)] * 1e3, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gsm8k", type=Path, help="test.jsonl of the set")
    parser.add_argument("--rows", type=int, default=1000)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    rng = random.Random(0)
    words, latex = gsm8k_rows(chosen.gsm8k, chosen.rows, rng), latex_rows(chosen.rows, rng)
    result: dict[str, object] = {"gsm8k": compare(words), "latex": compare(latex)}
    load = (words + latex) * 2
    result["latency_ms"] = {
        "alone": spread(asyncio.run(latencies(load, beside=0))),
        "beside_adversaries": spread(asyncio.run(latencies(load, beside=2))),
    }
    print(json.dumps(result, indent=2))
    reward_fns.close()


if __name__ == "__main__":
    main()
