r"""False steps: equations between numbers, such as `12*7=74`, that a machine can check.

Only an expression of plain numbers that stands alone on both sides of one `=` is judged. Not covered: anything with a
letter, a unit inside, a percentage, powers, other bases, congruences.
"""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_SYMBOLS = {r"\times": "*", r"\cdot": "*", r"\div": "/", "\u00d7": "*", "\u00f7": "/", "\u2212": "-", "\u00b7": "*"}
_SYMBOLS |= dict.fromkeys((r"\$", "$", "\u20ac", "\u00a3"), "")  # money
_SYMBOL = re.compile("|".join(map(re.escape, _SYMBOLS)))
_TIMES = re.compile(r"(?<=\d) ?[xX] ?(?=[\d(])")
_STEP = re.compile(
    rf"(?P<left>[(\-]*(?:{_NUMBER})(?:[ )(]*[+\-*/][ )(]*(?:{_NUMBER})[ )]*)+)=\s?(?P<right>-?(?:{_NUMBER}))"
    r"(?![\d/%^*+\u00b0!:\w\\]|[.,]\d| ?[-+*/=^%(]| ?\\| ?\d| ?[xX] ?\d|\s?(?:mod|R\b|r\b|remainder|cents?\b))"
)
# What may not stand before an expression: it would belong to it ("60 students x 2/3 = 40", "1 1/2 = ...").
_BELONGS = re.compile(r"(?:[\d)\]}%^+\-*/=\\|<>&({]|\b[xX])\s*$|[\w.,:]$")
_UNSURE = re.compile(r"/[^-+*]*/|(?<![\d.,])0\d")  # 3/ 1/4, and times of day such as 0900
_SCRIPT = re.compile(r"[_^]\s*(?:\{|\d)|\bmod\b|\\pmod|\bbase\b|remainder|approx")


def flaw(text: str) -> str | None:
    """The first false step of `text`, or None. A rounded result counts as right."""
    if "=" not in text:
        return None
    plain = _TIMES.sub("*", _SYMBOL.sub(lambda match: _SYMBOLS[match.group()], text))
    for line in plain.splitlines():
        if _SCRIPT.search(line):
            continue
        line = line.replace("<<", "; ").replace(">>", "; ")
        for step in _STEP.finditer(line):
            if _BELONGS.search(line[: step.start()]) or _UNSURE.search(step["left"]):
                continue
            value = evaluate(step["left"])
            if value is not None and not _rounds_to(value, step["right"]):
                return f"{step['left'].strip()} = {step['right']}, but it is {float(value):g}"
    return None


def evaluate(expression: str) -> Fraction | None:
    """The exact value of numbers joined by + - * / and brackets; None for anything else and for division by zero."""
    tokens = re.findall(rf"{_NUMBER}|[-+*/()]", expression)
    if "".join(tokens) != expression.replace(" ", "") or len(tokens) > 200:
        return None
    try:
        value, end = _sum(tokens, 0)
    except (IndexError, ValueError, ZeroDivisionError):
        return None
    return value if end == len(tokens) else None


def _sum(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _product(tokens, at)
    while at < len(tokens) and tokens[at] in "+-":
        sign = 1 if tokens[at] == "+" else -1
        term, at = _product(tokens, at + 1)
        value += sign * term
    return value, at


def _product(tokens: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _factor(tokens, at)
    while at < len(tokens) and tokens[at] in "*/":
        operator = tokens[at]
        factor, at = _factor(tokens, at + 1)
        value = value * factor if operator == "*" else value / factor
    return value, at


def _factor(tokens: list[str], at: int) -> tuple[Fraction, int]:
    if tokens[at] == "-":
        value, at = _factor(tokens, at + 1)
        return -value, at
    if tokens[at] == "(":
        value, at = _sum(tokens, at + 1)
        if tokens[at] != ")":
            raise ValueError("unclosed bracket")
        return value, at + 1
    return Fraction(tokens[at].replace(",", "")), at + 1


def _rounds_to(value: Fraction, written: str) -> bool:
    """Whether `written` is the value, or the value rounded or cut at its last digit."""
    number = Fraction(written.replace(",", ""))
    decimals = len(written.partition(".")[2])
    exact_needed = decimals == 0 and value.denominator == 1
    return number == value if exact_needed else abs(number - value) < Fraction(1, 10**decimals)
