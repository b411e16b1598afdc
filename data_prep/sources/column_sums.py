"""Sums of two numbers with worked column steps, for models small enough to learn on a CPU.

The expressions are reasoning-gym's family `chain_sum` (Apache-2.0, offline) with the mix's `params`; prompt and steps
are ours, in plain ASCII and short, since a byte-level model pays for every character::

    {"question": "47+85=", "answer": "132", "solution": "7+5+0=12\\n4+8+1=13\\n#### 132", "difficulty": 1.0}

Difficulty is the number of carries or borrows. A subtraction below zero is worked the other way round and negated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from data_prep.sources import reasoning_gym
from data_prep.sources.source import Opened, Options, Source, SourceSpec, in_batches, option_problem

_TWO_TERMS = re.compile(r"(\d+) ([+-]) (\d+)")
# reasoning-gym draws with repetition: ask for more than the distinct sums there are, the build drops the repeats.
_DEFAULTS = {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}


def column_steps(left: int, sign: str, right: int) -> tuple[list[str], int]:
    """The column-by-column steps of left +- right (left >= right for '-'), and how many carries they have."""
    steps, carry, carries = [], 0, 0
    width = max(len(str(left)), len(str(right)))
    for place in range(width):
        a, b = left // 10**place % 10, right // 10**place % 10
        carried = f"{sign}{carry}"  # always written: steps of one length are what a small model learns soonest
        total = a + b + carry if sign == "+" else a - b - carry
        if total < 0:
            a, total = a + 10, total + 10
            carry = 1
        else:
            carry = total // 10
        carries += carry
        steps.append(f"{a}{sign}{b}{carried}={total}")
    return steps, carries


def _item(expression: str, index: int) -> dict[str, Any] | None:
    match = _TWO_TERMS.fullmatch(expression)
    if match is None:
        return None
    left, sign, right = int(match[1]), match[2], int(match[3])
    negative = sign == "-" and left < right
    steps, carries = column_steps(*((right, sign, left) if negative else (left, sign, right)))
    answer = left + right if sign == "+" else left - right
    if negative:
        steps = [f"-({right}-{left})", *steps]
    return {
        "id": f"chain_sum/{index}",
        "question": f"{left}{sign}{right}=",
        "answer": str(answer),
        "solution": "\n".join([*steps, f"#### {answer}"]),
        "difficulty": float(carries),
    }


def _items(name: str, options: Options) -> Iterator[Mapping[str, Any]]:
    operators = (
        set(map(str, given)) if isinstance(given := options.get("operators", ("+", "-")), list | tuple) else set()
    )
    if not operators or operators - {"+", "-"}:
        raise option_problem(name, "operators", f"is {given!r}", 'write ["+"], ["-"] or both')
    rows = reasoning_gym.generate(
        name, "chain_sum", {**options, "params": _DEFAULTS | reasoning_gym.params(name, options)}
    )
    for index, row in enumerate(rows):
        expression = row["metadata"]["expression"]
        item = _item(expression, index)
        if item is None:
            raise option_problem(
                name,
                "params",
                f"make {expression!r}, which is no sum of two non-negative numbers",
                "keep min_terms and max_terms at 2",
            )
        if operators & set(expression):
            yield item


def _open(spec: SourceSpec) -> Opened:
    name, options = spec.name, spec.options
    return Opened(reasoning_gym.provenance("chain_sum", options), in_batches(_items(name, options)))


SOURCE = Source(
    kind="column_sums",
    data_source="embedded/chain_sum",
    ability="math",
    uses=("sft", "rl", "eval"),
    role="core",
    licence="Apache-2.0",
    origin="PyPI reasoning-gym",
    options=("params", "size", "seed", "operators"),
    open=_open,
)
