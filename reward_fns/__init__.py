"""Verifiable rewards: one entry for VeRL (`compute_score`), one for everything else (`grade`).

Importing this package starts nothing and imports neither VeRL, Ray, torch nor sympy. Worker processes start with the
first completion that needs one, and `close()` ends them (they also end with the process that started them).
"""

from __future__ import annotations

import asyncio
import atexit
from concurrent.futures import ThreadPoolExecutor

from reward_fns.code import grader as code_grader
from reward_fns.code.grader import grade_code
from reward_fns.grades import KEYS, Grade
from reward_fns.math import grader as math_grader
from reward_fns.math.grader import grade_math
from reward_fns.registry import UnknownSource, known_sources, register, resolve

__all__ = ["KEYS", "Grade", "UnknownSource", "close", "compute_score", "grade", "known_sources", "register", "resolve"]

# Arithmetic word problems: the answer is a number that was worked out.
for _name in ("openai/gsm8k", "gsm8k", "ChilleD/SVAMP", "svamp"):
    register(_name, grade_math, evaluated=True)
for _pattern in ("embedded/*", "reasoning_gym/*"):
    register(_pattern, grade_math, mode="strict", evaluated=True)
for _pattern in ("*mbpp*", "*human*eval*", "*apps*", "*taco*", "*code*"):
    register(_pattern, grade_code)
for _pattern in ("*math*", "*aime*", "*amc*", "*olympiad*", "*minerva*"):
    register(_pattern, grade_math)

# Threads that wait on worker processes; they hold no CPU. Sized for VeRL's default of a few hundred calls in flight.
_threads: ThreadPoolExecutor | None = None


def grade(
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: dict[str, object] | None = None,
    **options: object,
) -> dict[str, float | str]:
    """Grade one completion, blocking. Raises UnknownSource; a bad completion never raises.

    `options` override the source's registered defaults (for example mode="flexible")."""
    grader, defaults = resolve(data_source)
    return grader(solution_str, ground_truth, extra_info, **{**defaults, **options}).as_dict()


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: dict[str, object] | None = None,
    **options: object,
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


atexit.register(close)
