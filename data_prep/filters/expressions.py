"""Values of expressions of numbers: exact, and with every reading that people give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import isqrt

from data_prep.filters.plain_math import Token

_LARGEST_POWER = 64
_LONGEST_UNIT = 4  # words, as in "cups of flour per cake"
# Words that change the number before them, so that they are no units.
_SCALES_WORDS = (
    "dozen dozens hundred hundreds thousand thousands million millions billion billions half halves third thirds fourth "
    "fourths fifth fifths quarter squared cubed more less fewer than times of and or to from by o'clock am pm mod modulo "
    "remainder minus plus because so is are was were if since which that then has have had"
)
_SCALES = frozenset(_SCALES_WORDS.split())
# Units with fixed ratios: 2 feet + 6 inches is no 8 of anything.
_MEASURES_WORDS = (
    "second seconds minute minutes hour hours day days week weeks month months year years cent cents dollar dollars dime "
    "dimes nickel nickels penny pennies quarters inch inches foot feet yard yards mile miles millimeter millimeters "
    "centimeter centimeters meter meters kilometer kilometers metre metres mm cm km mg kg gram grams kilogram kilograms "
    "ounce ounces oz pound pounds lb lbs ton tons ml milliliter milliliters liter liters litre litres cup cups pint pints "
    "quart quarts gallon gallons tablespoon tablespoons teaspoon teaspoons hr hrs min mins sec ft in euros"
)
_MEASURES = frozenset(_MEASURES_WORDS.split())


class Unclear(ValueError):
    """The tokens are no expression of plain numbers, or one that people read in different ways."""


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


def read(tokens: Sequence[Token]) -> Side:
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
    numbers = [number(token) for token in bare if token.kind == "number"]
    rough = any("." in token.text for token in bare)
    fraction = len(numbers) == 2 and abs(values[0]) < 1 and ("frac" in kinds or kinds == _SLASH)
    side = Side(tuple(dict.fromkeys(values)), None, frozenset(numbers), units, rough, fraction or _all_percents(kinds))
    if set(kinds) <= {"number", "percent", "-", "(", ")"} and len(numbers) == 1:
        text = next(token.text for token in bare if token.kind == "number")
        return replace(side, decimals=len(text.partition(".")[2]))
    return side


def _all_percents(kinds: Sequence[str]) -> bool:
    return "percent" in kinds and kinds.count("percent") == kinds.count("number")


_SLASH = ["number", "/", "number"]


def number(token: Token) -> Fraction:
    """The value of a number as written."""
    return Fraction(token.text.replace(",", ""))


def _without_units(tokens: Sequence[Token]) -> tuple[list[Token], frozenset[str]]:
    """Drop the words after numbers. Raises Unclear for a word in another place, or one that changes the value."""
    bare: list[Token] = []
    units: set[str] = set()
    at = 0
    while at < len(tokens):
        at += _is_per(tokens, at)
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
        if (
            not bare
            or bare[-1].kind not in ("number", ")", "percent")
            or words[0] in _SCALES
            or len(words) > _LONGEST_UNIT
        ):
            raise Unclear(f"{tokens[at].text!r} is no unit")
        if end < len(tokens) and tokens[end].kind not in ("+", "-", "*", "/", ")"):
            raise Unclear(f"{tokens[end].text!r} follows a unit")
        units |= _MEASURES & set(words)
        at = end
    if len(units) > 1 and any(token.kind in "+-" for token in bare):
        raise Unclear("a sum of different measures")
    return bare, frozenset(units)


def _is_per(tokens: Sequence[Token], at: int) -> bool:
    """Whether the slash of `$2/egg` is at `at`: it belongs to the unit."""
    return 0 < at < len(tokens) - 1 and [token.kind for token in tokens[at - 1 : at + 2]] == ["number", "/", "word"]


def _is_share(bare: Sequence[Token]) -> bool:
    kinds = [token.kind for token in bare[-3:]]
    return (
        kinds[-1] == "percent" or kinds == _SLASH or (kinds[-1] == ")" and any(token.kind == "frac" for token in bare))
    )


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
        percents = [self.tokens[self.at - 1].kind == "percent"]
        while self.kind() in ("+", "-"):
            sign = 1 if self.kind() == "+" else -1
            self.at += 1
            value += sign * self.product()
            percents.append(self.tokens[self.at - 1].kind == "percent")
        if len(set(percents)) > 1:
            raise Unclear(f"a sum with percents from {self.tokens[first].text!r} on")
        return value

    def product(self) -> Fraction:
        value, divided = self.power(), False
        while self.kind() in ("*", "/", "of", "(", "frac", "sqrt"):
            kind = self.kind()
            if divided and kind != "*":
                raise Unclear("a/b/c and a/b(c) are read in two ways")
            self.at += kind in ("*", "/", "of")
            factor = self.power()
            value = value / factor if kind == "/" else value * factor
            divided = kind == "/"
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
            value = _root(self.group())
        elif token.kind == "-" and self.tokens[self.at - 1].kind == "^":
            self.at += 1
            value = -self.number()
        else:
            raise Unclear(f"{token.text!r} is no number")
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
            raise Unclear(f"{self.tokens[self.at].text!r} is no number")
        value = number(self.tokens[self.at])
        self.at += 1
        if value.denominator == 1 and [self.kind(n) for n in range(3)] == _SLASH:  # 2 1/2
            part = number(self.tokens[self.at]) / number(self.tokens[self.at + 2])
            if not 0 < part < 1:
                raise Unclear("two numbers side by side")
            self.at += 3
            return value + part
        if value.denominator == 1 and self.kind() == "frac" and self.mixed:
            return value + self.factor()
        return value


def _root(value: Fraction) -> Fraction:
    top, bottom = isqrt(max(0, value.numerator)), isqrt(value.denominator)
    if Fraction(top * top, bottom * bottom) != value:
        raise Unclear("a root that is no fraction")
    return Fraction(top, bottom)
