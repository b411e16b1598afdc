"""Texts that stop in the middle."""

from __future__ import annotations

import re

from data_prep.filters.gold import has_final_answer

_DANGLING = re.compile(
    r"(?:[,(\[{+/=<>&]|(?<!\*)\*|[\u2013\u2014]|\s-|\b(?:the|a|an|of|and|or|to|is|are|was|were|be|with|for|by|from|in|that|which|then|so|we|"
    r"because|if|as|at|than|what|how|when|where|who|do|does|did|has|have|had|can|will|would|could|per|each|every|many|much|his|"
    r"her|their|its|our|my|your|he|she|they|there|these|those|let|into|but|not|between|both|about|after|before))$",
    re.IGNORECASE,
)
_ASKS = re.compile(r"^\W*(?:what|how|who|which|when|where|why|find|solve|compute|calculate|evaluate|simplify|determine|give|show|"
                   r"prove|write|express|factor|expand|convert|round|name|list|state|differentiate|integrate|let|is|are|add|"
                   r"subtract|multiply|divide|can|does|do|return|create|implement|design)\b", re.IGNORECASE)  # fmt: skip
_SENTENCE_END = re.compile(r"[.?!][\"')\]$]*\s+(?=[A-Z\d$\\(])")
_WORD_AT_END = re.compile(r"(?<![\\$\w])[A-Za-z]{2,}$")
_FINISHED = re.compile(r"[.?!:)\]}$>\"'`|~%*\u00bb\u201d\u2019\u00b0\u2026\u25a0\u25a1\u220e]$|####[^\n]*$|\\\]$")
_COMPLETE_STEP = re.compile(r"=\s*\\?\$?-?\d(?:[\d.,/]*\d)?%?(?:\s+[A-Za-z]+){0,4}$")
_LEAST = 12  # characters; shorter questions are formulas


def cut_question(question: str) -> str | None:
    """How a question breaks off, or None: at a word that cannot be the last, or at any word without a full stop, where
    sentences before it have one or nothing is asked."""
    tail = question.rstrip()
    if len(tail) <= _LEAST or tail[-1] == "=":
        return None
    if _DANGLING.search(tail):
        return f"the question ends in {tail[-30:]!r}"
    if not _WORD_AT_END.search(tail):
        return None
    sentences = _SENTENCE_END.split(tail)
    asks = any(_ASKS.search(sentence) or "?" in sentence for sentence in "\n".join(sentences).split("\n"))
    stops = len(sentences) > 1 and "\n" not in sentences[-1]
    return f"the question ends in {tail[-30:]!r}" if stops or not asks else None


def cut_solution(solution: str) -> str | None:
    """How a worked solution breaks off, or None: an open thought or code fence, or an end inside a sentence."""
    tail = solution.rstrip()
    if not tail:
        return "the solution is empty"
    if tail.count("<think>") > tail.count("</think>"):
        return "a <think> that never ends"
    if tail.count("```") % 2:
        return "a code fence that never ends"
    if (
        _DANGLING.search(tail)
        or _stops_short(tail)
        or (tail.endswith(("...", "\u2026")) and not has_final_answer(tail))
    ):
        return f"the solution ends in {tail[-30:]!r}"
    return None


def _stops_short(tail: str) -> bool:
    """Whether the last line has no full stop, though it is a sentence and other lines have theirs."""
    *lines, last = [line.rstrip() for line in tail.splitlines() if line.strip()]
    if lines and tail[-1] in "%0123456789" and all(line[-1] in ".?!" for line in lines):
        return not has_final_answer(tail)
    if _FINISHED.search(tail) or tail[-1].isdigit() or _COMPLETE_STEP.search(tail):
        return False
    if lines and sum(not _FINISHED.search(line) for line in lines) * 2 > len(lines):
        return False  # a writer who uses none
    return len(last.split()) >= 4 or not has_final_answer(tail)
