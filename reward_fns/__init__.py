"""Verifiable rewards: one entry for VeRL (`compute_score`), one for everything else (`grade`).

Importing this package starts nothing and imports neither VeRL, Ray, torch nor sympy. Worker processes start with the
first completion that needs one, and `close()` ends them (they also end with the process that started them).
"""

import inspect
import typing
from collections.abc import Mapping
from functools import lru_cache, partial

from reward_fns.code.grader import grade_code
from reward_fns.grades import KEYS, Grade, shape_grade
from reward_fns.math.grader import grade_math
from reward_fns.pools import WaitingThreads, close, shared_pool
from reward_fns.registry import Grader, UnknownSource, known_sources, register, resolve, under_current_names

__all__ = ["KEYS", "Grade", "UnknownSource", "close", "compute_score", "grade", "known_sources", "register", "resolve"]

# Arithmetic word problems: the answer is a number that was worked out.
for _pattern in ("openai/gsm8k", "ChilleD/SVAMP", "*gsm8k*", "*svamp*"):
    register(_pattern, grade_math, evaluated=True)
for _pattern in ("embedded/*", "reasoning_gym/*"):
    register(_pattern, grade_math, mode="strict", evaluated=True)
register("evalplus/*", grade_code, packages=("numpy",))  # HumanEval+ and MBPP+: their tests compare with numpy
for _pattern in ("*mbpp*", "*human*eval*", "*apps*", "*taco*", "*code*"):
    register(_pattern, grade_code)
for _pattern in ("*math*", "*aime*", "*amc*", "*olympiad*", "*minerva*"):
    register(_pattern, grade_math)

# What the values of options may be.
OPTION_VALUES = {"mode": ("strict", "flexible"), "evaluated": (True, False), "partial": (True, False)}
NUMBER_OPTIONS = ("timeout", "memory_mb")
VERL_EXTRAS = {"reward_router_address", "reward_model_tokenizer"}  # for reward models; no verifier needs them


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
    `timeout` (math), `partial`, `timeout`, `memory_mb`, `workers`, `sandbox_url`, `packages` (code). A bad completion never
    raises. Raises UnknownSource, and ValueError for an option that no grader has, a value that it cannot have, or a gold
    answer that is none."""
    grader, defaults = resolve(data_source)
    chosen = {**defaults, **known_options(grader, options)}
    return shape_grade(grader(solution_str, ground_truth, extra_info, **chosen), solution_str, shaping or {})


def known_options(grader: Grader, options: dict[str, object]) -> dict[str, object]:
    """Those of `options` that `grader` takes: a recipe over several sources sets them for all of them at once."""
    options = under_current_names(options)
    known = {name for each in (grader, grade_math, grade_code) for name in option_names(each)}
    if unknown := set(options) - known - VERL_EXTRAS:
        raise ValueError(f"no reward has the options {sorted(unknown)}; there are: {', '.join(sorted(known))}")
    for name, value in options.items():
        if name in OPTION_VALUES and value not in OPTION_VALUES[name]:
            raise ValueError(f"{name} is {value!r}, and not one of {', '.join(map(str, OPTION_VALUES[name]))}")
        if name in NUMBER_OPTIONS and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise ValueError(f"{name} is {value!r}, not a number above 0")
    return {name: value for name, value in options.items() if name in option_names(grader)}


@lru_cache(maxsize=64)
def option_names(grader: Grader) -> frozenset[str]:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return frozenset(name for name, one in inspect.signature(grader).parameters.items() if one.kind is keyword)


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: dict[str, object] | None = None,
    **options: typing.Any,
) -> dict[str, float | str]:
    """VeRL's `reward.custom_reward_function`: as `grade`, without blocking the event loop.

    A policy is paid for what it was asked for: where the row's prompt asks for a box, `####` or a tag
    (`extra_info.answer_mark`), the mode is strict unless an option says otherwise."""
    import asyncio  # whoever awaits this has it; a check that asks for the graders need not pay for it

    if (extra_info or {}).get("answer_mark"):
        options.setdefault("mode", "strict")

    threads = shared_pool("threads", WaitingThreads)
    work = partial(grade, data_source, solution_str, ground_truth, extra_info, **options)
    return await asyncio.get_running_loop().run_in_executor(threads, work)
