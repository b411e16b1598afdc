"""False steps: equations between numbers, such as `12*7=74`, that a machine can check.

Arithmetic as people write it, in LaTeX or not, becomes tokens and then exact values: decimals, fractions, percents, powers, money
and units. What this small language does not have spoils the expression around it. Every two neighbours in a chain of equalities
are compared. Not judged: anything with a letter, other bases, congruences, and what people read in two ways. A rounded result
counts as right, and so does a sloppy chain (`3*4 = 12 + 5 = 17`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import isqrt
from typing import NamedTuple

from data_prep.filters.vocabulary import WORDS


class Token(NamedTuple):
    """`kind`: number, word, percent, `frac`, `sqrt`, relation, unknown, or the sign itself for + - * / ^ ( )."""

    kind: str
    text: str


_REWRITES = [
    (re.compile(pattern), put)
    for pattern, put in (
        (r"\\?\$|[\u20ac\u00a3\u00a5]", " "),  # money, or the bounds of a formula
        (r"\{,\}", ","),
        (r"(?<=\d)\\[,!](?=\d{3})", ""),
        (r"(?<=\d) ?\\ (?=\d+/)", " "),
        (r"\\[,;:! ]|~|\u00a0", " "),
        (
            r"(?:\\\\\s*(?:\[[^\]\n]*\])?|\n)\s*&?\s*(?==|\\approx|\u2248)",
            " ",
        ),  # a chain that continues in the next line
        (r"\\\\(?:\[[^\]\n]*\])?|\\\[|\\\]|\\(?:begin|end)\{[^{}]*\}|\\par\b", "\n"),
        (r"&", " "),
        (r"(?m)^\s*(?:[-*\u2022]\s+|\(?\d{1,2}\)\s)", " "),  # the mark of a list
        (r"\*\*(?=\d)(?<=\d\*\*)", "^"),
        (r"\*\*|`", ";"),
        (r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}", r" \1 "),
        (r"\\(?:boxed|fbox|left|right|[bB]igg?[lr]?|displaystyle|\(|\))(?![A-Za-z])\.?", " "),
        (r"\\[dtc]?frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\u00b0", " degrees "),
        (r"\\times(?![A-Za-z])|\\cdot(?![A-Za-z])|[\u00d7\u00b7\u22c5\u2219]", "*"),
        (r"\\div(?![A-Za-z])|\u00f7", " / "),
        (r"\\(?:approx|simeq)(?![A-Za-z])|\u2243", "\u2248"),
        (r"\\(?:q?quad|implies|Rightarrow|Longrightarrow|therefore|rightarrow|to)(?![A-Za-z])|[\u21d2\u2192]", ";"),
        (r"\\(?:leq?|geq?|neq?|equiv|lt|gt)(?![A-Za-z])|[\u2264\u2265\u2260<>]", " < "),
        (r"\\?%|\bpercent\b", "%"),
        (r"\u2212", "-"),
        (r"\b(?:km|mi|m|ft|cm)/(?:h|s|hr|sec|min)\b", " mph "),
        (r"(?<=[\w%)]) +[xX] +(?=[\d(.])|(?<=[\d)])[xX](?=[\d(])|(?<=\d)[xX] (?=\d)", " * "),
        (r"\b(?:times|multiplied by)\b", "*"),
        (r"\bdivided by\b", "/"),
        (r"(?<=\d) plus (?=\d)", "+"),
        (r"(?<=\d) minus (?=\d)", "-"),
        (r"\b(?:is equal to|equals)\b", "="),
    )
]
_MARKED = re.compile(r"<<([^<>\n]*)>>")  # GSM8K's calculator marks
_STATEMENT = re.compile(r"([;\n?]|[.,:!](?=\s|$))")
_TOKEN = re.compile(
    r"(?P<number>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?P<stuck>(?:[^\W_]|[,:]\d)+)?"
    r"|(?P<frac>\\[dtc]?frac(?![A-Za-z]))|(?P<sqrt>\\sqrt(?![A-Za-z\[]))|(?P<word>[^\W\d_]+(?:['\u2019-][^\W\d_]+)*)"
    r"|(?P<sign>[-+*/^])|(?P<open>[({\[])|(?P<close>[)}\]])|(?P<percent>%)|(?P<relation>[=\u2248<])|(?P<space>\s+)"
    r"|(?P<unknown>.)"
)


def split_statements(text: str) -> Iterator[list[Token]]:
    """The tokens of each clause that holds a relation. Questions are left out: they state nothing."""
    marked = "\n".join(_MARKED.findall(text))
    plain = _MARKED.sub(" ", text) + "\n" + marked
    for pattern, put in _REWRITES:
        plain = pattern.sub(put, plain)
    parts = _STATEMENT.split(plain)
    for clause, end in zip(parts[::2], [*parts[1::2], ""], strict=True):
        if end != "?" and ("=" in clause or "\u2248" in clause):
            yield list(_tokenize_clause(clause))


def _tokenize_clause(clause: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(clause):
        kind, text = str(match.lastgroup), match.group()
        if kind == "stuck":
            yield Token("number", match["number"])
            yield Token("word" if match["stuck"] in WORDS["tight_units"] else "unknown", match["stuck"])
        elif kind == "number" and re.match(r"0\d", text):
            yield Token("unknown", text)  # a time of day such as 0900, or a code
        elif kind in ("sign", "open", "close"):
            yield Token({"open": "(", "close": ")"}.get(kind, text), text)
        elif kind == "word" and len(text) == 1:
            yield Token("unknown", text)
        elif kind != "space":
            yield Token(kind, text)


_SLASH = ["number", "/", "number"]
_LARGEST_POWER = 64
_LONGEST_UNIT = 4  # words, as in "cups of flour per cake"


class Unclear(ValueError):
    """The tokens are not an expression of plain numbers, or one that people read in different ways."""


@dataclass(frozen=True)
class Side:
    """One side of an equation. `values` are its readings; `decimals` counts those of a bare number, and is None for a
    calculation; `numbers` are all numbers in it, `units` the measures."""

    values: tuple[Fraction, ...]
    decimals: int | None
    numbers: frozenset[Fraction]
    units: frozenset[str]
    rough: bool = False  # a number in it may have been rounded
    share: bool = False  # `1/4 = 10 miles` and `20 % = 10 miles` are parts of something unsaid


def read_expression(tokens: Sequence[Token]) -> Side:
    """All of the tokens as one expression. Raises Unclear."""
    bare, units = _without_units(tokens)
    values: list[Fraction] = []
    kinds = [token.kind for token in bare]
    for percent in (Fraction(1, 100), Fraction(1)) if "percent" in kinds else (Fraction(1),):
        for mixed in (True, False) if "frac" in kinds else (True,):
            try:
                values.append(_Reading(bare, percent, mixed).value())
            except IndexError:
                raise Unclear("it ends too early") from None
            except ZeroDivisionError:
                raise Unclear("a division by zero") from None
    numbers = [number_value(token) for token in bare if token.kind == "number"]
    rough = any("." in token.text for token in bare)
    fraction = len(numbers) == 2 and abs(values[0]) < 1 and ("frac" in kinds or kinds == _SLASH)
    percents = "percent" in kinds and kinds.count("percent") == kinds.count("number")
    side = Side(tuple(dict.fromkeys(values)), None, frozenset(numbers), units, rough, fraction or percents)
    if set(kinds) <= {"number", "percent", "-", "(", ")"} and len(numbers) == 1:
        text = next(token.text for token in bare if token.kind == "number")
        return replace(side, decimals=len(text.partition(".")[2]))
    return side


def number_value(token: Token) -> Fraction:
    return Fraction(token.text.replace(",", ""))


def _without_units(tokens: Sequence[Token]) -> tuple[list[Token], frozenset[str]]:
    """Drop the words after numbers. Raises Unclear for a word in another place, or one that changes the value."""
    bare: list[Token] = []
    units: set[str] = set()
    at = 0
    while at < len(tokens):
        if 0 < at < len(tokens) - 1 and [token.kind for token in tokens[at - 1 : at + 2]] == ["number", "/", "word"]:
            at += 1  # the slash of `$2/egg` belongs to the unit
        if tokens[at].kind != "word":
            bare.append(tokens[at])
            at += 1
            continue
        if tokens[at].text == "of" and bare and _is_share(bare):
            bare.append(Token("of", "of"))
            at += 1
            continue
        end = _unit_end(tokens, at)
        words = [token.text.lower() for token in tokens[at:end] if token.kind == "word"]
        measurable = bare and bare[-1].kind in ("number", ")", "percent")
        if not measurable or words[0] in WORDS["scales"] or len(words) > _LONGEST_UNIT:
            raise Unclear(f"{tokens[at].text!r} is not a unit")
        if end < len(tokens) and tokens[end].kind not in ("+", "-", "*", "/", ")"):
            raise Unclear(f"{tokens[end].text!r} follows a unit")
        units |= WORDS["measures"] & set(words)
        at = end
    if len(units) > 1 and any(token.kind in "+-" for token in bare):
        raise Unclear("a sum of different measures")
    return bare, frozenset(units)


def _is_share(bare: Sequence[Token]) -> bool:
    """Whether a percentage or a fraction stands at the end: a share of what follows."""
    kinds = [token.kind for token in bare[-3:]]
    in_brackets = kinds[-1] == ")" and any(token.kind == "frac" for token in bare)
    return kinds[-1] == "percent" or kinds == _SLASH or in_brackets


def _unit_end(tokens: Sequence[Token], at: int) -> int:
    """Where the words that start at `at` end: `km / h`, `eggs per box` and `cm ^ 2` are one unit."""
    while at < len(tokens):
        kinds = [token.kind for token in tokens[at : at + 2]]
        if kinds[0] == "word":
            at += 1
        elif kinds in (["/", "word"], ["^", "number"]):
            at += 2
        else:
            break
    return at


class _Reading:
    """Recursive descent over tokens. `percent` is the value of 1 %; with `mixed`, 2 1/2 is two and a half."""

    def __init__(self, tokens: Sequence[Token], percent: Fraction, mixed: bool):
        self.tokens, self.percent, self.mixed, self.at = tokens, percent, mixed, 0

    def value(self) -> Fraction:
        value = self.sum()
        if self.at < len(self.tokens):
            raise Unclear(f"{self.tokens[self.at].text!r} follows")
        return value

    def kind(self, ahead: int = 0) -> str:
        place = self.at + ahead
        return self.tokens[place].kind if place < len(self.tokens) else ""

    def sum(self) -> Fraction:
        first = self.at
        value = self.product()
        percents = {self.tokens[self.at - 1].kind == "percent"}
        while self.kind() in ("+", "-"):
            sign = 1 if self.kind() == "+" else -1
            self.at += 1
            value += sign * self.product()
            percents.add(self.tokens[self.at - 1].kind == "percent")
        if len(percents) > 1:
            raise Unclear(f"a sum with percents from {self.tokens[first].text!r} on")
        return value

    def product(self) -> Fraction:
        value, divided = self.power(), False
        while (kind := self.kind()) in ("*", "/", "of", "(", "frac", "sqrt"):
            if divided and kind != "*":
                raise Unclear("a/b/c and a/b(c) are read in two ways")
            self.at += kind in ("*", "/", "of")
            divided = kind == "/"
            value = value / self.power() if divided else value * self.power()
        return value

    def power(self) -> Fraction:
        if self.kind() == "-":
            self.at += 1
            value = self.power()
            if self.tokens[self.at - 2].kind == "^":
                raise Unclear("-2^2 is read in two ways")
            return -value
        value = self.factor()
        if self.kind() == "^":
            self.at += 1
            exponent = self.factor()
            if exponent.denominator != 1 or abs(exponent) > _LARGEST_POWER or abs(value) > 10**9:
                raise Unclear("a power that is not worked out here")
            value = value ** int(exponent)
        return value

    def factor(self) -> Fraction:
        token = self.tokens[self.at]
        if token.kind == "number":
            value = self.number()
        elif token.kind == "(":
            value = self.group()
        elif token.kind == "frac":
            self.at += 1
            top = self.group()
            value = top / self.group()
        elif token.kind == "sqrt":
            self.at += 1
            square = self.group()
            value = Fraction(isqrt(max(0, square.numerator)), isqrt(square.denominator))
            if value * value != square:
                raise Unclear("a root that is not a fraction")
        elif token.kind == "-" and self.tokens[self.at - 1].kind == "^":
            self.at += 1
            value = -self.number()
        else:
            raise Unclear(f"{token.text!r} is not a number")
        if self.kind() == "percent":
            self.at += 1
            value *= self.percent
        return value

    def group(self) -> Fraction:
        if self.kind() != "(":
            raise Unclear("an argument without braces")
        self.at += 1
        value = self.sum()
        if self.kind() != ")":
            raise Unclear("a bracket that is not closed")
        self.at += 1
        return value

    def number(self) -> Fraction:
        if self.kind() != "number":
            raise Unclear(f"{self.tokens[self.at].text!r} is not a number")
        value = number_value(self.tokens[self.at])
        self.at += 1
        if value.denominator == 1 and [self.kind(n) for n in range(3)] == _SLASH:  # 2 1/2
            part = number_value(self.tokens[self.at]) / number_value(self.tokens[self.at + 2])
            if not 0 < part < 1:
                raise Unclear("two numbers side by side")
            self.at += 3
            return value + part
        if value.denominator == 1 and self.kind() == "frac" and self.mixed:
            return value + self.factor()
        return value


_OTHER_ARITHMETIC = re.compile(r"\bmod(?:ulo)?\b|\\[pb]mod|\bbase\b|\bremainder\b|\b[rR]\s?\d|\bbinary\b|o'clock")
_RELATION = re.compile(r"[=\u2248]|\\approx|\\simeq|\bequal")
_LONGEST_SIDE = 60  # tokens of a side that are looked at
_SHARES = re.compile(r"half|thirds?|fourths?|quarters?|fifths?|sixths?|eighths?|tenths?|percent|square|cube|rest", re.I)
_RATIOS = frozenset(
    Fraction(n) for n in (2, 3, 4, 7, 8, 10, 12, 16, 24, 25, 30, 36, 52, 60, 100, 365, 1000, 3600, 5280)
)


def find_false_step(text: str) -> str | None:
    """The first false step of `text`, or None."""
    if not _RELATION.search(text):
        return None
    judged = "\n".join("" if _OTHER_ARITHMETIC.search(line) else line for line in text.split("\n"))
    for tokens in split_statements(judged):
        if found := _false_link(tokens):
            return found
    return None


def _false_link(tokens: list[Token]) -> str | None:
    """The first two neighbours of a chain of equalities that differ, with the value of the left one."""
    cuts = [place for place, token in enumerate(tokens) if token.kind == "relation"]
    parts = [tokens[low:high] for low, high in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(tokens)], strict=True)]
    for number, cut in enumerate(cuts):
        if tokens[cut].text == "<":
            continue
        left = _longest_ending(parts[number], named=number == 0)
        right = _longest_beginning(parts[number + 1]) if left else None
        if left and right and _is_false(left, right, tokens[cut].text):
            written = ["".join(f" {token.text}" for token in part[-12:]).strip() for part in parts[number : number + 2]]
            return f"{written[0][-60:]} {tokens[cut].text} {written[1][:60]}, but it is {float(left.values[0]):g}"
    return None


def _read_whole(tokens: Sequence[Token]) -> Side | None:
    try:
        return read_expression(tokens) if 0 < len(tokens) <= _LONGEST_SIDE else None
    except Unclear:
        return None


def _longest_ending(tokens: Sequence[Token], named: bool) -> Side | None:
    """The longest expression at the end of some words. Where those may name a thing, a single number is part of it."""
    tokens = tokens[-_LONGEST_SIDE:]
    starts = (place for place in range(len(tokens)) if _may_start(tokens, place))
    side = next((side for place in starts if (side := _read_whole(tokens[place:]))), None)
    return None if side and named and side.decimals is not None and len(tokens) > 1 else side


def _may_start(tokens: Sequence[Token], place: int) -> bool:
    if place == 0:
        return True
    before = tokens[place - 1]
    signs = [at for at in range(place) if tokens[at].kind in ("+", "-", "*", "/")]
    if signs and not any(token.text in WORDS["parts"] for token in tokens[signs[-1] : place]):
        return False  # a sum with words in it
    if tokens[place].kind not in ("number", "(", "frac", "sqrt") or before.kind not in ("word", "("):
        return False
    if before.kind == "(":
        return place == 1 or tokens[place - 2].kind == "word"
    if before.text == "of" and place > 1:
        whole = tokens[place - 2]  # "a third of 30 * 2" is a share, "the price of 30 * 2" is not
        return whole.kind == "word" and not _SHARES.search(whole.text)
    return before.text.lower() not in WORDS["binds"]


def _longest_beginning(tokens: Sequence[Token]) -> Side | None:
    """The longest expression at the start of a clause's words."""
    tokens = tokens[:_LONGEST_SIDE]
    ends = (place for place in range(len(tokens), 0, -1) if _may_end(tokens, place))
    return next((side for place in ends if (side := _read_whole(tokens[:place]))), None)


def _may_end(tokens: Sequence[Token], place: int) -> bool:
    if place == len(tokens):
        return True
    after = tokens[place]
    if after.text == "and" and [token.kind for token in tokens[place + 1 : place + 3]] == ["number", "/"]:
        return False  # 2 and 1/2
    return after.kind == ")" or (after.kind == "word" and after.text.lower() not in WORDS["continues"])


def _is_false(left: Side, right: Side, relation: str) -> bool:
    if left.decimals is not None and right.decimals is not None:
        return False  # two numbers: units or words make them equal
    if any(_values_agree(a, b, left, right, relation) for a in left.values for b in right.values):
        return False
    if any(value in right.numbers for value in left.values) and right.decimals is None:
        return False  # 3*4 = 12 + 5 = 17: the chain continues from its result
    if (left.share and not right.share) or (right.share and not left.share):
        return max(abs(left.values[0]), abs(right.values[0])) < 1
    one, other = left.values[0], right.values[0]
    converted = one and other and (one / other in _RATIOS or other / one in _RATIOS)
    return not ((left.units or right.units) and converted)


def _values_agree(a: Fraction, b: Fraction, left: Side, right: Side, relation: str) -> bool:
    """Whether two values are equal, or one is the other rounded or cut at the last digit that it is written with."""
    if a == b:
        return True
    if left.decimals is None and right.decimals is None:
        return (left.rough or right.rough) and abs(a - b) <= abs(a) / 100
    value, written, decimals = (a, b, right.decimals) if right.decimals is not None else (b, a, left.decimals)
    step = Fraction(1, 10 ** (decimals or 0))
    if relation == "\u2248":
        while not decimals and written and written % (step * 10) == 0 and step < abs(written):
            step *= 10  # 1287 ≈ 1300
    elif not decimals and value.denominator == 1:
        return False
    return abs(value - written) < step
