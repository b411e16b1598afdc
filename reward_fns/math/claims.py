"""What the words around a value claim: it is the answer, or it is denied, supposed, conditional, or only a part of one."""

import re
from collections.abc import Iterable

CROSSES = "\u2716-\u2718\u274c\u274e\u26d4\U0001f6ab\U0001f44e"
BESIDE = 60  # characters before a value that are looked at

# Before a value: "not 5", "cannot be 5", "half of 5", "twice 5".
DENIED = re.compile(
    r"(?:\b(?:not|neither|cannot|at\s+least|at\s+most|(?:less|more|fewer|greater)\s+than|minus|negative|half\s+of|(?:root|square|cube)\s+of)\b"
    r"|n['\u2019]t\b)[^=,;.\d]*\Z|\b(?:twice|double|thrice|triple)\s+\$?\Z",
    re.IGNORECASE,
)
SUPPOSING = r"\b(?:if|let|suppos(?:e|ing)|assum(?:e|ing)|unless|whether)(?!['\u2019]|\s+(?:us|me)\b)\s+(?:that\s+)?"
# "Let x = 5", "if the answer is 5", and "if $x = 5$", where the formula is the value.
SUPPOSED = re.compile(
    rf"{SUPPOSING}(?:(?:[\w$\\{{}}-]+\s+){{0,3}}?(?:=|is|be|are|were|equals?)\s*)?\$?\Z", re.IGNORECASE
)
# After a value: "5 is not a solution", "5 is too small", "5 or more", "5 plus 6", "5 % of 60".
REJECTED = re.compile(
    rf"[\s*]*(?:[{CROSSES}]|(?:(?:is|was|does)(?:\s+not|n['\u2019]t)|(?:cannot|can['\u2019]t)\s+(?:be|hold|work|satisfy)|fails"
    r"|is\s+(?:wrong|incorrect|invalid|impossible|extraneous|rejected|excluded|false|too)"
    r"|contradicts|or\s+(?:more|less|fewer|greater|higher|lower)|plus|minus|divided|multiplied"
    r"|squared|cubed)\b|of\s+\\?\$?\d)",
    re.IGNORECASE,
)
CASE = re.compile(r"\s*(?:if|when)\b")
# Directly after the value that a phrase gives.
CHANGED = re.compile(r"\s*(?:more|less|fewer|times|dozen|percent|greater|higher|lower|over|out of)\b", re.IGNORECASE)
# Before "the answer is": "if", "let", "the square of", "twice".
ELSEWHERE = re.compile(
    rf"(?:{SUPPOSING}|\b(?:twice|double|half|third|quarter|square|cube|root|reciprocal|inverse|negative|opposite)\s+(?:of\s+)?)"
    r"(?:the|our|my|your)?\s*\Z",
    re.IGNORECASE,
)


def is_disclaimed(before: str, after: str) -> bool:
    """Whether the words beside a value say that it is not the answer, or not wholly."""
    near = before[-BESIDE:]
    return bool(DENIED.search(near) or SUPPOSED.search(near) or REJECTED.match(after))


def is_one_case(after: str, after_others: Iterable[str]) -> bool:
    """Whether a value has a condition, and another one has, too: "5 if x is odd and 6 if x is even"."""
    return bool(CASE.match(after)) and any(map(CASE.match, after_others))


def is_elsewhere(before: str) -> bool:
    """Whether "the answer is" behind these words is supposed, or says something else about the answer."""
    return ELSEWHERE.search(before[-BESIDE:]) is not None
