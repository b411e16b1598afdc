"""Verifiable rewards: one entry for VeRL (`compute_score`), one for everything else (`grade`).

Importing this package starts nothing and imports neither VeRL, Ray, torch nor sympy. Worker processes start with the
first completion that needs one, and `close()` ends them (they also end with the process that started them).
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import typing
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from reward_fns.code import grader as code_grader
from reward_fns.code.grader import grade_code
from reward_fns.grades import KEYS, Grade
from reward_fns.math import grader as math_grader
from reward_fns.math.grader import grade_math
from reward_fns.registry import Grader, UnknownSource, known_sources, register, resolve
from reward_fns.shaping import shape

__all__ = ["KEYS", "Grade", "UnknownSource", "close", "compute_score", "grade", "known_sources", "register", "resolve"]

# Arithmetic word problems: the answer is a number that was worked out.
register("openai/gsm8k", grade_math, evaluated=True)
register("ChilleD/SVAMP", grade_math, evaluated=True)
for _pattern in ("*gsm8k*", "*svamp*"):
    register(_pattern, grade_math, evaluated=True)
for _pattern in ("embedded/*", "reasoning_gym/*"):
    register(_pattern, grade_math, mode="strict", evaluated=True)
register("evalplus/*", grade_code, packages=("numpy",))  # HumanEval+ and MBPP+: their tests compare with numpy
for _pattern in ("*mbpp*", "*human*eval*", "*apps*", "*taco*", "*code*"):
    register(_pattern, grade_code)
for _pattern in ("*math*", "*aime*", "*amc*", "*olympiad*", "*minerva*"):
    register(_pattern, grade_math)

# What the values of options may be.
VALUES = {"mode": ("strict", "flexible"), "evaluated": (True, False), "partial": (True, False)}
NUMBERS = ("limit", "memory_mb")
VERL_EXTRAS = {"reward_router_address", "reward_model_tokenizer"}  # for reward models; no verifier needs them

# Threads that wait on worker processes; they hold no CPU. Sized for VeRL's default of a few hundred calls in flight.
_threads: ThreadPoolExecutor | None = None


def grade(
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: dict[str, object] | None = None,
    *,
    shaping: Mapping[str, Mapping[str, object]] | None = None,
    **options: object,
) -> dict[str, float | str]:
    """Grade one completion, blocking. The keys are those of KEYS, plus `shape_<part>` for each part of `shaping`.

    `options` go to the graders that know them and override the source's registered defaults: `mode`, `evaluated`,
    `limit` (math), `partial`, `limit`, `memory_mb`, `workers`, `sandbox_url`, `packages` (code). A bad completion never raises.
    Raises UnknownSource, and ValueError for an option that no grader has, a value that it cannot have, or a gold answer that
    is none."""
    grader, defaults = resolve(data_source)
    return shape(
        grader(solution_str, ground_truth, extra_info, **{**defaults, **known_options(grader, options)}),
        solution_str,
        shaping or {},
    )


def known_options(grader: Grader, options: dict[str, object]) -> dict[str, object]:
    """Those of `options` that `grader` takes: a recipe over several sources sets them for all of them at once."""
    known = {name for each in (grader, grade_math, grade_code) for name in parameters(each)}
    if unknown := set(options) - known - VERL_EXTRAS:
        raise ValueError(f"no reward has the options {sorted(unknown)}; there are: {', '.join(sorted(known))}")
    for name, value in options.items():
        if name in VALUES and value not in VALUES[name]:
            raise ValueError(f"{name} is {value!r}, and not one of {', '.join(map(str, VALUES[name]))}")
        if name in NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise ValueError(f"{name} is {value!r}, and no number above 0")
    return {name: value for name, value in options.items() if name in parameters(grader)}


@lru_cache(maxsize=64)
def parameters(grader: Grader) -> frozenset[str]:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return frozenset(name for name, one in inspect.signature(grader).parameters.items() if one.kind is keyword)


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: dict[str, object] | None = None,
    **options: typing.Any,
) -> dict[str, float | str]:
    """VeRL's `reward.custom_reward_function`: as `grade`, without blocking the event loop."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(
        threads(), lambda: grade(data_source, solution_str, ground_truth, extra_info, **options)
    )


def threads() -> ThreadPoolExecutor:
    global _threads
    if _threads is None:
        _threads = ThreadPoolExecutor(max_workers=32, thread_name_prefix="reward")
    return _threads


def close() -> None:
    """End every worker process and thread. The next call starts them again."""
    global _threads
    math_grader.close()
    code_grader.close()
    if _threads is not None:
        _threads.shutdown(wait=False, cancel_futures=True)
        _threads = None


def forget() -> None:
    """In a forked child: leave the parent's workers alone, and start its own when it needs them."""
    global _threads
    _threads = None
    math_grader.forget()
    code_grader.forget()


atexit.register(close)
os.register_at_fork(after_in_child=forget)
