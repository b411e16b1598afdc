r"""Formulas that need no symbolic work: arithmetic with roots, fractions, powers and variables, and tuples, intervals,
sets and lists of them.

`equal` decides by value: exactly, in rational numbers, where no root or pi occurs (variables take three random rational
points, which tells polynomials apart with certainty for all practical degrees), in floating point otherwise. It says
None wherever LaTeX is ambiguous or math-verify has a rule of its own, and math-verify then decides.
"""

import math
import re
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from reward_fns.math import notation

Value = Fraction | float

MAX_CHARACTERS = 300
MAX_POWER_BITS = 4096
EQUAL, APART = 1e-11, 1e-7  # relative: surely equal below the first, surely not above the second
POINTS = ((7, 3, 11), (-13, 17, 5), (19, -23, 29))  # seeds of the values that variables take

TEXT = re.compile(r"\\(?:text|mbox)\s*\{([^{}]*)\}")
NORMAL = (
    (re.compile(r"\\varnothing\b"), r"\\emptyset"),
    (re.compile(r"\\(?:left|right|displaystyle|limits|[,;:!])|~"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\ "), " "),
    (re.compile("[\u2212\u2013]"), "-"),
    (re.compile(r"\^\{?\\circ\}?"), ""),
    (re.compile(r"\\(cdot|times|ast)(?![A-Za-z])"), "*"),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"(?<!\d)\s+|\s+(?!\d)"), ""),
)
RELATION = re.compile(r"[=<>%]|\\(?:le|ge|lt|gt|leq|geq|neq|ne|in|approx|pm|mp|cup|cap|equiv|to|mid)(?![a-z])")
TOKEN = re.compile(r"\d+(?:\.\d+)?|\.\d+|\\frac|\\sqrt|\\pi|\\infty|[-+*/^(){}\[\]]|[A-DF-HJ-Za-df-hj-z]")
BRACKETS = {"(": ")", "[": "]", r"\{": r"\}"}


class Unclear(ValueError):
    """Outside the little language that is read here."""


def equal_formulas(gold: str, answer: str) -> bool | None:
    """Whether two formulas are equal; None when this module cannot tell."""
    if max(len(gold), len(answer)) > MAX_CHARACTERS:
        return None
    gold, answer = normal_form(gold), normal_form(answer)
    if gold == answer or normal_form(TEXT.sub(r"\1", gold)) == normal_form(TEXT.sub(r"\1", answer)):
        return bool(gold) or None
    if RELATION.search(gold) or RELATION.search(answer):
        return None
    (opened, theirs), (given, mine) = split_parts(gold), split_parts(answer)
    if len(theirs) == len(mine) == 1 and opened == given == "":
        return same_value(gold, answer)
    if opened != given and len(opened) == len(given) == 2 and len(theirs) == len(mine) == 2:
        return False  # intervals of which one has an end that the other lacks
    if opened != given:
        return None  # a set for a tuple, a scalar for a list: math-verify's rules
    if opened.startswith((r"\{", "list")):
        return same_elements(theirs, mine)
    if len(theirs) != len(mine):
        return False
    verdicts = [one_equal(a, b) for a, b in zip(theirs, mine, strict=True)]
    return False if False in verdicts else None if None in verdicts else True


def normal_form(text: str) -> str:
    """`text` without delimiters, sizes, spacing and final punctuation."""
    text = notation.strip_wrappers(text.strip().rstrip(".,;"))
    for pattern, replacement in NORMAL:
        text = pattern.sub(replacement, text)
    return text.strip().rstrip(".,;")


def one_equal(gold: str, answer: str) -> bool | None:
    return True if gold == answer else same_value(gold, answer)


def same_elements(gold: list[str], answer: list[str]) -> bool | None:
    """Equality of sets, each element of either side being equal to one of the other."""
    table = [[one_equal(a, b) for b in answer] for a in gold]
    if any(None in row for row in table):
        return None
    return all(any(row) for row in table) and all(any(column) for column in zip(*table, strict=True))


def split_parts(text: str) -> tuple[str, list[str]]:
    """(brackets, elements): "(]" for an interval, "list" for bare elements, "" for a single value."""
    for opening in BRACKETS:
        for closing in BRACKETS.values():
            if text.startswith(opening) and text.endswith(closing):
                inside = split_elements(text[len(opening) : -len(closing)])
                if inside is not None and (len(inside) > 1 or opening == r"\{"):
                    return opening + closing, inside
    bare = split_elements(text)
    return ("list", bare) if bare and len(bare) > 1 else ("", [text])


def split_elements(text: str) -> list[str] | None:
    """`text` split at the commas outside brackets; None when its brackets do not match."""
    found, depth, start = [], 0, 0
    for i, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth < 0:
                return None
        elif character == "," and depth == 0:
            found.append(text[start:i])
            start = i + 1
    return [*found, text[start:]] if depth == 0 else None


def same_value(gold: str, answer: str) -> bool | None:
    """By value at every point: exactly for rationals. Decimals that are not exactly equal are math-verify's case."""
    left, right = notation.read_number(gold), notation.read_number(answer)
    if left is not None and right is not None:
        return notation.equal_numbers(left, right)
    theirs, mine = formula_values(gold), formula_values(answer)
    if theirs is None or mine is None:
        return None
    verdicts = [close_values(a, b) for a, b in zip(theirs, mine, strict=True)]
    if None in verdicts or not all(verdicts):
        return None if None in verdicts or "." in gold + answer else False
    return True


def close_values(a: Value, b: Value) -> bool | None:
    if (isinstance(a, Fraction) and isinstance(b, Fraction)) or math.isinf(a) or math.isinf(b):
        return a == b
    distance = abs(float(a) - float(b)) / max(1.0, abs(float(a)), abs(float(b)))
    return True if distance < EQUAL else False if distance > APART else None


@lru_cache(maxsize=4096)
def formula_values(text: str) -> tuple[Value, ...] | None:
    """The value of `text` at each point, None when it cannot be read with certainty."""
    tokens = TOKEN.findall(text)
    if "".join(tokens) != text or not tokens:
        return None
    variables = any(token.isalpha() for token in tokens)
    if variables and (r"\sqrt" in tokens or any(a.isalpha() and b == "(" for a, b in pairwise(tokens))):
        return None  # the sign of a root, and f(x)
    try:
        return tuple(Reader(tokens, point).all() for point in POINTS)
    except (Unclear, ZeroDivisionError, OverflowError, RecursionError):
        return None


class Reader:
    """Recursive descent over the tokens of one formula, evaluating at one point."""

    def __init__(self, tokens: list[str], point: tuple[int, int, int]):
        self.tokens, self.at, self.point = tokens, 0, point

    def all(self) -> Value:
        value = self.sum()
        if self.at != len(self.tokens):
            raise Unclear
        return value

    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.next()
        if not token or (expected and token != expected):
            raise Unclear
        self.at += 1
        return token

    def sum(self) -> Value:
        sign = self.take() if self.next() in ("+", "-") else "+"
        value = self.product() if sign == "+" else -self.product()
        while self.next() in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self) -> Value:
        value = self.power()
        divided = False
        while (token := self.next()) and token not in ("+", "-", ")", "]", "}"):
            if token in ("*", "/"):
                self.take()
                divided = divided or token == "/"
            elif divided or token[0].isdigit() or (token == r"\frac" and self.tokens[self.at - 1].isdigit()):
                raise Unclear  # 1/2x, two numbers side by side, and mixed numbers
            value = value / self.power() if token == "/" else value * self.power()
        return value

    def power(self) -> Value:
        base = self.read_atom()
        if self.next() != "^":
            return base
        self.take()
        if self.next()[:1].isdigit() and len(self.next()) > 1:
            raise Unclear  # x^23 is x^2 times 3 in LaTeX, and the twenty-third power to people
        exponent = self.read_atom()
        if self.next() == "^":
            raise Unclear
        return raise_power(base, exponent)

    def read_atom(self) -> Value:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return Fraction(token)
        if token.isalpha():
            a, b, c = self.point
            return Fraction(a * ord(token) ** 2 + b, c + ord(token))
        if token in ("(", "{", "["):
            value = self.sum()
            self.take({"(": ")", "{": "}", "[": "]"}[token])
            return value
        if token in (r"\pi", r"\infty"):
            return math.pi if token == r"\pi" else math.inf
        if token == r"\frac":
            above, below = self.read_argument(), self.read_argument()
            return above / below
        if token == r"\sqrt":
            degree = self.read_atom() if self.next() == "[" else Fraction(2)
            return raise_power(self.read_argument(), 1 / degree)
        raise Unclear

    def read_argument(self) -> Value:
        """A braced group, or the single digit that LaTeX takes without braces (the rest goes back)."""
        token = self.next()
        if token.isdigit() and len(token) > 1:
            self.tokens = [*self.tokens[: self.at], token[0], token[1:], *self.tokens[self.at + 1 :]]
        return self.read_atom()


def raise_power(base: Value, exponent: Value) -> Value:
    """`base` to the power `exponent`: exact where both are rational and the result is, else floating point."""
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            size = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent.numerator)
            if size > MAX_POWER_BITS:
                raise Unclear
            return base**exponent.numerator
        if base >= 0 and exponent == Fraction(1, 2):
            above, below = math.isqrt(base.numerator), math.isqrt(base.denominator)
            if (above * above, below * below) == (base.numerator, base.denominator):
                return Fraction(above, below)
    if base < 0:
        raise Unclear
    return float(base) ** float(exponent)
