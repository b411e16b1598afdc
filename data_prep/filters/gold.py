"""The gold under its own reward: can the grader read it, and does the worked solution arrive at it."""

from __future__ import annotations

import re
from functools import lru_cache

from data_prep.filters import latex

_PLAIN = re.compile(r"-?\d+(?:\.\d+)?")
_MARKED = re.compile(r"####[ \t]*\$?([^\n#]+?)\s*$")


def unreadable(answer: str, data_source: str, ability: str) -> str | None:
    """Why the reward of `data_source` cannot grade against this gold, or None."""
    if _PLAIN.fullmatch(answer):
        return None
    return _unreadable_tests(answer) if ability == "code" else _unreadable_answer(answer, data_source)


def _unreadable_tests(answer: str) -> str | None:
    from reward_fns.code.problem import BadTests, read

    try:
        read(answer)
    except (BadTests, ValueError, TypeError, KeyError) as error:
        return str(error)[:200]
    return None


@lru_cache(maxsize=8192)
def _unreadable_answer(answer: str, data_source: str) -> str | None:
    from reward_fns import grade
    from reward_fns.math.gold import as_formula, read_gold
    from reward_fns.math.grader import LIMIT_SECONDS, symbolic
    from reward_fns.math.verifier import VerifierError

    gold = read_gold(answer)
    if not gold.text:
        return "the gold is empty"
    if gold.kind == "words" and len(gold.text.split()) > 4:
        return f"the gold is a sentence: {gold.text[:60]!r}"
    if broken := latex.flaw(f"${gold.text}$"):
        return broken
    if gold.kind == "formula":
        try:
            readable = symbolic(gold, as_formula(gold.text), LIMIT_SECONDS)
        except VerifierError as error:
            return f"the verifier fails on it: {error}"
        if not readable:
            return f"math-verify does not find {gold.text[:60]!r} equal to itself"
    verdict = grade(data_source, f"\\boxed{{{gold.text}}}", answer)
    return None if verdict["acc"] else f"the gold scores 0 under the reward of {data_source}"


def no_final_answer(solution: str) -> str | None:
    """Why a worked solution has no final answer to compare with the gold, or None."""
    from reward_fns.math.extract import final_answer

    if _MARKED.search(solution) or final_answer(solution).where in ("boxed", "hash", "phrase"):
        return None
    return f"no final answer in {solution[-40:]!r}"


def disagrees(solution: str, answer: str, data_source: str) -> str | None:
    """How the final answer of a worked solution differs from the gold, or None. An undecided verifier is no proof."""
    marked = _MARKED.search(solution)
    if marked and marked.group(1).replace(",", "") == answer:
        return None
    from reward_fns import grade

    verdict = grade(data_source, solution, answer, mode="flexible")
    if verdict["acc"] or verdict["verifier_error"]:
        return None
    return f"the solution says {verdict['pred']!r}, the gold is {answer[:60]!r}"
