"""Row filters. Each returns a reason with its detail, or None for a good row.

The order is that of the reports: a row is dropped for the first reason found. `suspect` is a cheap Arrow test (an RE2
pattern, or None for all rows), so that Python looks only at rows that could have the flaw.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.filters import arithmetic, gold, latex, text
from data_prep.filters.case import Case
from data_prep.sources import SourceSpec


@dataclass(frozen=True)
class Filter:
    """`abilities` limits a filter to some kinds of rows; `columns` are searched for `suspect`."""

    reason: str
    check: Callable[[Case], str | None]
    columns: tuple[str, ...] = ("question", "answer", "solution")
    suspect: str | None = None
    abilities: tuple[str, ...] | None = None


def _check_both_texts(check: Callable[[str], str | None]) -> Callable[[Case], str | None]:
    return lambda case: check(case.question) or check(case.solution or "")


def _check_empty(case: Case) -> str | None:
    if case.answer is not None and gold.is_empty(case.answer):
        return "the gold answer is empty"
    return None if case.answer is not None or case.solution else "there is neither a gold answer nor a solution"


def _check_truncated(case: Case) -> str | None:
    return text.cut_question(case.question) or (None if case.solution is None else text.cut_solution(case.solution))


def _check_disagreement(case: Case) -> str | None:
    if not case.solution or case.answer is None or gold.is_empty(case.answer):
        return None
    return gold.find_disagreement(case.solution, case.answer, case.data_source)


_MATH = ("math",)
FILTERS = (
    Filter("empty_answer", _check_empty),
    Filter("needs_image", lambda case: text.needs_image(case.question), ("question",), text.SUSPECT),
    Filter("truncated", _check_truncated),
    Filter(
        "broken_latex",
        _check_both_texts(latex.find_broken_latex),
        ("question", "solution"),
        r"[\\$\x07\x08\x0b\x0c]|[\t\r\n](?:imes|ext|heta|frac|riangle|an|au|ight|ho|angle|floor|ceil|eq|abla)",
        _MATH,
    ),
    Filter("repetition", _check_both_texts(text.find_repetition), ("question", "solution"), abilities=_MATH),
    Filter("other_language", _check_both_texts(text.other_language), ("question", "solution"), abilities=_MATH),
    Filter(
        "unreadable_gold",
        lambda case: (
            None if case.answer is None else gold.explain_unreadable(case.answer, case.data_source, case.ability)
        ),
        ("answer",),
        r"[^\d]",
    ),
    Filter(
        "missing_final_answer",
        lambda case: gold.no_final_answer(case.solution) if case.solution and case.answer is not None else None,
        ("solution",),
        abilities=_MATH,
    ),
    Filter("disagreeing_solution", _check_disagreement, ("solution",), abilities=_MATH),
    Filter(
        "false_step",
        lambda case: arithmetic.find_false_step(case.solution or ""),
        ("solution",),
        r"\d(?s:.)*(?:=|\x{2248}|\\approx|equal)",
        _MATH,
    ),
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


def choose_filters(switches: Mapping[str, Any], own: Callable[[Case], str | None] | None = None) -> tuple[Filter, ...]:
    """The filters that a mix switches on; `all: false` switches off what is not named.

    `own` says why a reward of the user's own cannot grade against a gold, in place of our graders."""
    default = switches.get("all", True)
    chosen = (each for each in FILTERS if switches.get(each.reason, default))
    return tuple(
        replace(each, check=own, suspect=None) if own and each.reason == "unreadable_gold" else each for each in chosen
    )


def find_reasons(case: Case) -> dict[str, str]:
    """Every reason that applies to one row, with its detail: what inspection shows."""
    found = {}
    for each in FILTERS:
        if (not each.abilities or case.ability in each.abilities) and (detail := each.check(case)):
            found[each.reason] = detail
    return found


def judge_batch(items: pa.RecordBatch, filters: tuple[Filter, ...], spec: SourceSpec) -> Verdict:
    """Every row's first reason to be dropped."""
    flawed = pc.is_valid(items["flaw"]).to_numpy(zero_copy_only=False)
    verdict = Verdict(flawed.astype(np.int16), [None] * items.num_rows)
    cells: dict[str, list[Any]] = {}
    for each in filters:
        if each.abilities and spec.ability not in each.abilities:
            continue
        for row in np.flatnonzero(_find_suspects(items, each) & (verdict.reason == 0)):
            cells = cells or {name: items[name].to_pylist() for name in ("question", "answer", "solution")}
            question, answer, solution = (column[row] for column in cells.values())
            case = Case(question, answer, solution, spec.data_source, spec.ability)
            if detail := each.check(case):
                verdict.reason[row], verdict.detail[row] = REASONS.index(each.reason), detail
    return verdict


def _find_suspects(items: pa.RecordBatch, each: Filter) -> np.ndarray:
    if each.suspect is None:
        return np.ones(items.num_rows, dtype=bool)
    found = np.zeros(items.num_rows, dtype=bool)
    for column in each.columns:
        matches = pc.fill_null(pc.match_substring_regex(items[column], each.suspect), False)
        found |= matches.to_numpy(zero_copy_only=False)
    return found
