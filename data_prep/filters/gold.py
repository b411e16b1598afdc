"""The gold under its own reward: can the grader read it, and does the worked solution arrive at it."""

import re
from decimal import Decimal
from functools import lru_cache

from data_prep.filters import latex
from reward_fns import UnknownSource, grade, resolve
from reward_fns.code.problem import BadTests, read_problem
from reward_fns.math import spellings
from reward_fns.math.extract import final_answer
from reward_fns.math.grader import read_gold

_PLAIN = re.compile(r"-?\d+(?:\.\d+)?")
_NOTHING = re.compile(r"\\(?:boxed|fbox|text|mathrm|mbox)(?![A-Za-z])|####|[\s{}$#'\"`*\u200b\ufeff]")
_PLACEHOLDER = re.compile(
    r"(?:n/?a|nan|null|none|nil|tbd|todo|unknown|proof|error|[-?.\u2026_]+|(?:see|refer to) .*"
    r"|the (?:proof|answer|solution) .*)\.?",
    re.IGNORECASE,
)
_DANGLING = re.compile(
    r"(?:[-+*/=^_,(<]|\\(?:times|cdot|div|pm|frac))$|^(?:[*/^_)=,]|\\(?:times|cdot|div)\b)|\d\.\.+\d"
)
_BY_ZERO = re.compile(r"/\s*0+(?![\d.])|\\[dt]?frac\{[^{}]*\}\{0+\}")
# Delimiters of commands that LaTeX itself pairs.
_PAIRED = re.compile(r"\\[lr](?:brace|brack|floor|ceil)|\\(?:left|right)\s*(?:\\[{}|]|[()\[\].|])")
_ESCAPED_BRACE = re.compile(r"\\([{}])")
_LATEX_WORDS = re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+")
_LONGEST_WORDS = 4
_REMARK = re.compile(r"(?<=\d) \([A-Za-z][A-Za-z .]*\)$")
_E_NOTATION = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d{1,2}")
_MARKED = re.compile(r"####[ \t]*\$?([^\n#]+?)\s*$")


@lru_cache(maxsize=256)
def _judge_of(data_source: str) -> str:
    """A source whose reward judges rows of `data_source`: mathematics for one that has no reward of ours, as rows of SFT may."""
    try:
        resolve(data_source)
    except UnknownSource:
        return "math"
    return data_source


def is_empty(answer: str) -> bool:
    """Whether nothing is left of a gold without its marks: `$$`, `\\boxed{}`, `####`."""
    return not _NOTHING.sub("", answer) and answer.count("{") == answer.count("}")


def has_grader(data_source: str) -> bool:
    """Whether one of our graders is for this source. A reward of the user's own may be for any other."""
    try:
        resolve(data_source)
    except UnknownSource:
        return False
    return True


def explain_unreadable(answer: str, data_source: str, ability: str) -> str | None:
    """Why the reward of `data_source` cannot grade against this gold, or None, also where none of ours is for it."""
    if _PLAIN.fullmatch(answer) or not has_grader(data_source):
        return None
    if ability != "code":
        return _unreadable_answer(answer, data_source)
    try:
        return read_problem(answer).unusable or None
    except (BadTests, ValueError, TypeError, KeyError) as error:
        return str(error)[:200]


@lru_cache(maxsize=8192)
def _unreadable_answer(answer: str, data_source: str) -> str | None:
    gold = read_gold(answer)
    if not gold.text:
        return "the gold is empty"
    if malformed := _find_malformed(gold.text, gold.kind):
        return malformed
    if broken := latex.find_broken_latex(gold.text if "$" in gold.text else f"${gold.text}$"):
        return broken
    if reason := spellings.unanswerable(answer):
        return reason
    verdict = grade(_judge_of(data_source), f"\\boxed{{{gold.text}}}", answer)
    if not verdict["acc"]:
        return f"the gold scores 0 under the reward of {data_source}"
    return _only_as_spelled(gold.text, answer, data_source)


def _only_as_spelled(text: str, answer: str, data_source: str) -> str | None:
    """The plainer spelling of the same gold that scores 0: no model would write `6 (pears)` to the letter."""
    plain = _REMARK.sub("", text)
    if _E_NOTATION.fullmatch(plain):
        plain = f"{Decimal(plain):f}"
    if plain == text or grade(_judge_of(data_source), f"\\boxed{{{plain}}}", answer)["acc"]:
        return None
    return f"the reward accepts the gold only as it is spelled: {plain!r} scores 0 for {text[:40]!r}"


def is_same_gold(one: str, other: str, data_source: str) -> bool:
    """Whether two golds mean the same under the reward of `data_source`: `1/2` and `0.5`, `5` and `$5`."""
    if is_empty(one) or is_empty(other) or not has_grader(data_source):
        return False
    return any(grade(_judge_of(data_source), f"\\boxed{{{a}}}", b)["acc"] for a, b in ((one, other), (other, one)))


def _find_malformed(text: str, kind: str) -> str | None:
    """What is wrong with the form of a gold, without reading it as mathematics."""
    bare = text.strip(" $")
    if _PLACEHOLDER.fullmatch(bare):
        return f"the gold is a placeholder: {bare!r}"
    if kind in ("number", "choice"):
        return None
    if len(re.findall(r"[A-Za-z]{2,}", _LATEX_WORDS.sub(" ", bare))) > _LONGEST_WORDS:
        return f"the gold is a sentence: {bare[:60]!r}"
    if _DANGLING.search(bare):
        return f"the gold is cut off: {bare[-40:]!r}"
    if _BY_ZERO.search(bare):
        return f"the gold divides by zero: {bare[:40]!r}"
    bare = re.sub(r"^[A-J]\)\s", "", bare)
    brackets = _ESCAPED_BRACE.sub(r"\1", _PAIRED.sub("", bare))
    if sum(map(brackets.count, "([{")) != sum(map(brackets.count, ")]}")):
        return f"the gold has a bracket without its partner: {bare[:40]!r}"
    return None


def has_final_answer(solution: str) -> bool:
    """Whether a worked solution marks its final answer: a box, `####`, or "the answer is"."""
    return bool(_MARKED.search(solution)) or final_answer(solution).where in ("boxed", "hash", "phrase")


def no_final_answer(solution: str, answer: str, data_source: str) -> str | None:
    """Why a worked solution has no final answer, or None: it marks none, and its reward does not find the gold at its end."""
    if has_final_answer(solution) or grade(_judge_of(data_source), solution, answer, mode="flexible")["acc"]:
        return None
    return f"no final answer in {solution[-40:]!r}"


def find_disagreement(solution: str, answer: str, data_source: str) -> str | None:
    """How the final answer of a worked solution differs from the gold, or None. An undecided verifier proves nothing, and
    neither does the last number of a solution that marks no final answer."""
    marked = _MARKED.search(solution)
    if (marked and marked.group(1).replace(",", "") == answer) or not has_final_answer(solution):
        return None
    if not has_grader(data_source):
        return None
    verdict = grade(_judge_of(data_source), solution, answer, mode="flexible")
    if verdict["acc"] or verdict["verifier_error"]:
        return None
    return f"the solution says {verdict['pred']!r}, the gold is {answer[:60]!r}"
