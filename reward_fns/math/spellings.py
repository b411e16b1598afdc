r"""How people and models write one and the same answer: for checks that a gold can be answered at all.

`unanswerable` grades a gold against these. A gold that is right only in its own words is a task that nobody solves.
"""

import re
from collections.abc import Iterator

from reward_fns.math import formula, grader, notation

ROUND = re.compile(r"(?<!\\left)(?<!\\)\(([^()\[\]]*)(?<!\\)\)")
OPERATORS = re.compile(r"(?<=[^\s\\{(])([=+])(?=[^\s\d])")


def spellings(gold: str) -> Iterator[str]:
    """A bare gold in other spellings that mean the same."""
    text = gold.strip()
    inner = text.strip("$") if text.count("$") in (0, 2) else ""
    yield text
    if not inner:
        return
    yield f"${inner}$"
    yield inner.replace(r"\frac", r"\dfrac")
    yield OPERATORS.sub(r" \1 ", inner)
    yield rf"\mathbf{{{inner}}}" if r"\text" not in inner else f"**{inner}**"
    if inner.count("(") == inner.count(")") == 1 and not re.search(r"\\(?:left|text)", inner):
        yield ROUND.sub(r"\\left(\1\\right)", inner)
    number = notation.read_number(inner)
    if number is not None and not number.words and number.factor == 1:
        value = number.value
        yield f"{value.numerator}" if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def unanswerable(ground_truth: str) -> str | None:
    """Why no natural answer would be right for a gold, or None. Blocks on the verifier where the gold needs it."""
    gold = grader.read_gold(ground_truth)
    if gold.kind == "formula" and not formula.read(gold.text) and not grader.written(gold.text).is_text:
        return f"only the very same text would be right: the grader does not understand {gold.text[:60]!r}"
    for spelling in spellings(gold.text):
        grade = grader.grade_math(rf"\boxed{{{spelling}}}", ground_truth)
        if grade.verifier_error:
            return f"the verifier fails on it: {grade.why}"
        if not grade.acc:
            return f"the gold written as {spelling[:60]!r} would be wrong"
    return None
