"""Row filters. Each returns a reason with its detail, or None for a good row.

A filter says which part of a row its flaw spoils, and a row is dropped from the splits that use that part: a solution that was
cut off does no harm to RL, which never shows it. The order is that of the reports: each part is judged until its first flaw.
`suspect` is a cheap Arrow test (an RE2 pattern, or None for all rows), so that Python looks only at rows that could have
the flaw.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.answer_marks import describe_marks, find_marks
from data_prep.filters import arithmetic, gold, latex, text
from data_prep.filters.case import Case
from data_prep.schema import ANSWER, PARTS, QUESTION, SOLUTION
from data_prep.sources import SourceSpec


@dataclass(frozen=True)
class Uses:
    """What the splits of a mix use of a source's rows: the parts (bits of `schema.PARTS`) that each kind of row shows or is
    graded by, whether rendering writes the gold below the solution, and the marks that the prompt asks for."""

    kinds: Mapping[str, int]
    writes_gold: bool = False
    asked: tuple[str, ...] = ()


EVERY_PART = Uses({"every": QUESTION | ANSWER | SOLUTION})
Check = Callable[[Case], str | None]


@dataclass(frozen=True)
class Filter:
    """`checks` by the part that their flaw spoils, in whose column `suspect` is searched; `abilities` limits a filter to some
    kinds of questions."""

    reason: str
    checks: Mapping[str, Check]
    suspect: str | None = None
    abilities: tuple[str, ...] | None = None


def _check_both_texts(check: Callable[[str], str | None]) -> dict[str, Check]:
    return {"question": lambda case: check(case.question), "solution": lambda case: check(case.solution or "")}


def _check_empty(case: Case) -> str | None:
    return "the gold answer is empty" if case.answer is not None and gold.is_empty(case.answer) else None


def _check_nothing(case: Case) -> str | None:
    return None if case.answer is not None or case.solution else "there is neither a gold answer nor a solution"


def _check_cut_solution(case: Case) -> str | None:
    return None if case.solution is None else text.cut_solution(case.solution, case.answer or "")


def _check_gold(case: Case) -> str | None:
    return None if case.answer is None else gold.explain_unreadable(case.answer, case.data_source, case.ability)


def _check_ending(case: Case) -> str | None:
    """A solution is judged as it will stand in the data: rendering may write the gold below it."""
    if not case.solution or (case.writes_gold and case.answer is not None and not gold.is_empty(case.answer)):
        return None
    if case.asked:
        asks = f"the prompt asks for {describe_marks(case.asked)}"
        missing = not set(find_marks(case.solution)) & set(case.asked)
        return f"{asks}, and the solution ends in {case.solution[-40:]!r}" if missing else None
    if case.answer is None or _check_gold(case):
        return None
    return gold.no_final_answer(case.solution, case.answer, case.data_source)


def _check_disagreement(case: Case) -> str | None:
    """A gold that cannot be read proves nothing about the solution."""
    if not case.solution or case.answer is None or _check_gold(case):
        return None
    return gold.find_disagreement(case.solution, case.answer, case.data_source)


_MATH = ("math",)
FILTERS = (
    Filter("empty_answer", {"answer": _check_empty, "question": _check_nothing}),
    Filter("needs_image", {"question": lambda case: text.needs_image(case.question)}, text.SUSPECT),
    Filter("truncated", {"question": lambda case: text.cut_question(case.question), "solution": _check_cut_solution}),
    Filter(
        "broken_latex",
        _check_both_texts(latex.find_broken_latex),
        r"[\\$\x07\x08\x0b\x0c]|[\t\r\n](?:imes|ext|heta|frac|riangle|an|au|ight|ho|angle|floor|ceil|eq|abla)",
        _MATH,
    ),
    Filter("repetition", _check_both_texts(text.find_repetition), abilities=_MATH),
    Filter("other_language", _check_both_texts(text.other_language), abilities=_MATH),
    Filter("unreadable_gold", {"answer": _check_gold}, r"[^\d]"),
    Filter("missing_final_answer", {"solution": _check_ending}, abilities=_MATH),
    # Either may be the wrong one, so that the row is neither shown nor graded by: the question stands for all of it.
    Filter("disagreeing_solution", {"question": _check_disagreement}, abilities=_MATH),
    Filter(
        "false_step",
        {"solution": lambda case: arithmetic.find_false_step(case.solution or "")},
        r"\d(?s:.)*(?:=|\x{2248}|\\approx|equal)",
        _MATH,
    ),
)
# Found by numbers or across rows, outside this package.
POOL_REASONS = ("too_long", "contaminated", "conflicting_gold", "duplicate", "near_duplicate", "pass_rate")
# What `reason` numbers mean everywhere: 0 is a good row.
REASONS = ("", "bad_row", *(each.reason for each in FILTERS), *POOL_REASONS)


@dataclass
class Verdict:
    """Flaws of a batch's rows, by row: the `spoiled` parts (bits of `schema.PARTS`), the `reason` (index into REASONS, 0 for a
    good row) that a part was last spoiled for, and its detail. A row that no split can use has a spoiled question."""

    uses: Uses
    reason: np.ndarray
    spoiled: np.ndarray
    details: dict[int, str] = field(default_factory=dict)

    def may_spoil(self, part: int) -> np.ndarray:
        """The rows of which a split uses this part, and in which it is not spoiled yet. A mask."""
        used = any(parts & part for parts in self.uses.kinds.values())
        return used & (self.spoiled & (part | QUESTION) == 0)

    def spoil(self, row: int, part: int, reason: str, detail: str) -> None:
        self.reason[row], self.details[row] = REASONS.index(reason), detail
        self.spoiled[row] |= part
        if all(parts & self.spoiled[row] for parts in self.uses.kinds.values()):
            self.spoiled[row] |= QUESTION


def choose_filters(switches: Mapping[str, Any], own: Callable[[Case], str | None] | None = None) -> tuple[Filter, ...]:
    """The filters that a mix switches on; `all: false` switches off what is not named.

    `own` says why a reward of the user's own cannot grade against a gold, in place of our graders."""
    default = switches.get("all", True)
    chosen = (each for each in FILTERS if switches.get(each.reason, default))
    by_reward = {"unreadable_gold": {"answer": own}} if own else {}
    return tuple(replace(each, checks=by_reward[each.reason], suspect=None) if each.reason in by_reward else each
                 for each in chosen)  # fmt: skip


def find_reasons(case: Case) -> dict[str, str]:
    """Every reason that applies to one row, with its detail: what inspection shows."""
    found = {}
    for each in FILTERS:
        if not each.abilities or case.ability in each.abilities:
            details = (check(case) for check in each.checks.values())
            if detail := next(filter(None, details), None):
                found[each.reason] = detail
    return found


def judge_batch(
    items: pa.RecordBatch, filters: tuple[Filter, ...], spec: SourceSpec, uses: Uses = EVERY_PART
) -> Verdict:
    """What is wrong with each row, as far as the splits use it."""
    verdict = Verdict(uses, np.zeros(items.num_rows, np.int16), np.zeros(items.num_rows, np.uint8))
    for row in np.flatnonzero(items["flaw"].is_valid().to_numpy(zero_copy_only=False)).tolist():
        verdict.spoil(row, QUESTION, "bad_row", items["flaw"][row].as_py())
    cells: dict[str, list[Any]] = {}
    for each in filters:
        if each.abilities and spec.ability not in each.abilities:
            continue
        for column, check in each.checks.items():
            for row in np.flatnonzero(verdict.may_spoil(PARTS[column]) & _find_suspects(items[column], each)).tolist():
                cells = cells or {name: items[name].to_pylist() for name in PARTS}
                spoiled = int(verdict.spoiled[row])  # a spoiled part proves nothing about the others
                answer = None if spoiled & ANSWER else cells["answer"][row]
                solution = None if spoiled & SOLUTION else cells["solution"][row]
                if detail := check(Case(cells["question"][row], answer, solution, spec.data_source, spec.ability,
                                        uses.writes_gold, uses.asked)):  # fmt: skip
                    verdict.spoil(row, PARTS[column], each.reason, detail)
    return verdict


def _find_suspects(texts: pa.Array, each: Filter) -> np.ndarray:
    if each.suspect is None:
        return np.ones(len(texts), dtype=bool)
    matches = pc.fill_null(pc.match_substring_regex(texts, each.suspect), False)
    return np.asarray(matches.to_numpy(zero_copy_only=False))
