"""Row filters. Each returns a reason with its detail, or None for a good row.

The order is that of the reports: a row is dropped for the first reason found. `suspect` is a cheap Arrow test (an RE2
pattern, or None for all rows), so that Python looks only at rows that could have the flaw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.filters import arithmetic, gold, language, latex, loops, pictures, text
from data_prep.sources import SourceSpec


@dataclass(frozen=True)
class Case:
    """One item as filters see it; `solution` and `answer` may be None."""

    question: str
    answer: str | None
    solution: str | None
    data_source: str
    ability: str


@dataclass(frozen=True)
class Filter:
    """`abilities` limits a filter to some kinds of rows; `columns` are searched for `suspect`."""

    reason: str
    check: Callable[[Case], str | None]
    columns: tuple[str, ...] = ("question", "answer", "solution")
    suspect: str | None = None
    abilities: tuple[str, ...] | None = None
    default: bool = True


def _either(check: Callable[[str], str | None]) -> Callable[[Case], str | None]:
    return lambda case: check(case.question) or (check(case.solution) if case.solution else None)


def _empty(case: Case) -> str | None:
    if case.answer is not None and gold.is_empty(case.answer):
        return "the gold answer is empty"
    return None if case.answer is not None or case.solution else "there is neither a gold answer nor a solution"


def _truncated(case: Case) -> str | None:
    return text.cut_question(case.question) or (None if case.solution is None else text.cut_solution(case.solution))


def _unreadable(case: Case) -> str | None:
    return None if case.answer is None else gold.unreadable(case.answer, case.data_source, case.ability)


def _no_final(case: Case) -> str | None:
    return gold.no_final_answer(case.solution) if case.solution and case.answer is not None else None


def _disagrees(case: Case) -> str | None:
    if not case.solution or case.answer is None or gold.is_empty(case.answer):
        return None
    return gold.disagrees(case.solution, case.answer, case.data_source)


def _false_step(case: Case) -> str | None:
    return arithmetic.flaw(case.solution) if case.solution else None


_MATH = ("math",)
FILTERS = (
    Filter("empty_answer", _empty),
    Filter("needs_image", lambda case: pictures.needs_image(case.question), ("question",), pictures.SUSPECT),
    Filter("truncated", _truncated),
    Filter(
        "broken_latex",
        _either(latex.flaw),
        ("question", "solution"),
        r"[\\$\x07\x08\x0b\x0c]|[\t\r\n](?:imes|ext|heta|frac|riangle|an|au|ight|ho|angle|floor|ceil|eq|abla)",
        _MATH,
    ),
    Filter("repetition", _either(loops.repeats), ("question", "solution"), abilities=_MATH),
    Filter("other_language", _either(language.other_language), ("question", "solution"), abilities=_MATH),
    Filter("unreadable_gold", _unreadable, ("answer",), r"[^\d]"),
    Filter("missing_final_answer", _no_final, ("solution",), abilities=_MATH),
    Filter("disagreeing_solution", _disagrees, ("solution",), abilities=_MATH),
    Filter("false_step", _false_step, ("solution",), r"\d(?s:.)*(?:=|\x{2248}|\\approx|equal)", _MATH),
)
# Found by numbers or across rows, outside this package.
POOL_REASONS = ("too_long", "contaminated", "conflicting_gold", "duplicate", "near_duplicate")
# What `reason` numbers mean everywhere: 0 is a good row.
REASONS = ("", "bad_row", *(each.reason for each in FILTERS), *POOL_REASONS)


@dataclass(frozen=True)
class Verdict:
    """`reason` (index into REASONS, 0 for a good row) and `detail` for each row of a batch."""

    reason: np.ndarray
    detail: list[str | None]


def chosen(switches: Mapping[str, Any]) -> tuple[Filter, ...]:
    """The filters that a mix switches on; `all: false` switches off what is not named."""
    default = switches.get("all", True)
    return tuple(each for each in FILTERS if switches.get(each.reason, default))


def flags(case: Case) -> dict[str, str]:
    """Every reason that applies to one row, with its detail: what inspection shows."""
    found = {}
    for each in FILTERS:
        if (not each.abilities or case.ability in each.abilities) and (detail := each.check(case)):
            found[each.reason] = detail
    return found


def judge(items: pa.RecordBatch, filters: tuple[Filter, ...], spec: SourceSpec) -> Verdict:
    """Every row's first reason to be dropped."""
    flawed = pc.is_valid(items["flaw"]).to_numpy(zero_copy_only=False)
    verdict = Verdict(flawed.astype(np.int16), [None] * items.num_rows)
    cells: dict[str, list[Any]] = {}
    for each in filters:
        if each.abilities and spec.ability not in each.abilities:
            continue
        for row in np.flatnonzero(_suspects(items, each) & (verdict.reason == 0)):
            cells = cells or {name: items[name].to_pylist() for name in ("question", "answer", "solution")}
            case = Case(
                cells["question"][row], cells["answer"][row], cells["solution"][row], spec.data_source, spec.ability
            )
            if detail := each.check(case):
                verdict.reason[row], verdict.detail[row] = REASONS.index(each.reason), detail
    return verdict


def _suspects(items: pa.RecordBatch, each: Filter) -> np.ndarray:
    if each.suspect is None:
        return np.ones(items.num_rows, dtype=bool)
    found = np.zeros(items.num_rows, dtype=bool)
    for column in each.columns:
        found |= pc.fill_null(pc.match_substring_regex(items[column], each.suspect), False).to_numpy(
            zero_copy_only=False
        )
    return found
