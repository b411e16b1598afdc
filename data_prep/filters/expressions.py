"""Arithmetic as people write it, in LaTeX or not, as tokens and then as exact values.

The language has decimals, fractions, percents, powers, factorials, binomials, money and units. A letter, a command that is not
known, an index or two numbers side by side are outside it and spoil the expression around them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import comb, factorial, isqrt
from typing import NamedTuple

from data_prep.filters.vocabulary import WORDS


class Token(NamedTuple):
    """`kind`: number, word, percent, `frac`, `binom`, `sqrt`, relation, unknown, or the sign itself for + - * / ^ ! ( ).
    `tight`: no space before it."""

    kind: str
    text: str
    tight: bool = False


class Statement(NamedTuple):
    """The tokens of a clause that holds a relation, and the text that follows it."""

    tokens: list[Token]
    following: str


_REWRITES = [
    (re.compile(pattern), put)
    for pattern, put in (
        (r"~~[^~\n]*~~", " "),  # struck out
        (r"\\?\$|[\u20ac\u00a3\u00a5]", " "),  # money, or the bounds of a formula
        (r"\{,\}", ","),
        (r"\.{3,}|\u2026|\\[lcd]?dots[bcmio]?(?![A-Za-z])", " \u2026 "),  # terms left out
        (r"(?s)\\begin\{(\w*matrix)\}.*?\\end\{\1\}", " \u2026 "),
        (r"\u00b2", "^2"),
        (r"\u00b3", "^3"),
        (r"(?<=\d)\\[,!](?=\d{3})", ""),
        (r"(?<=\d) ?\\ (?=\d+/)", " "),
        (r"\\[,;:! ]|~|\u00a0", " "),
        (
            r"(?:\\\\\s*(?:\[[^\]\n]*\])?|\n)\s*&?\s*(?==|\\approx|\u2248)",
            " ",
        ),  # a chain that continues in the next line
        (r"\\\\(?:\[[^\]\n]*\])?|\\\[|\\\]|\\(?:begin|end)\{[^{}]*\}|\\par\b", "\n"),
        (r"&", " "),
        (r"\*\*(?=\d)(?<=\d\*\*)", "^"),
        (r"(?<=\d) \*\* (?=\d)", " \u2026 "),  # a power, or words in bold
        (r"\*\*|`|\\checkmark(?![A-Za-z])|[\u2713\u2714]", ";"),
        (r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}", r" \1"),
        (r"\\(?:boxed|fbox|left|right|[bB]igg?[lr]?|displaystyle|\(|\))(?![A-Za-z])\.?", " "),
        (r"\\([dtc]?frac|[dt]?binom)\s*(\d)\s*(\d)", r"\\\1{\2}{\3}"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\u00b0", " degrees "),
        (r"\\times(?![A-Za-z])|\\cdot(?![A-Za-z])|[\u00d7\u00b7\u22c5\u2219]", "*"),
        (r"\\div(?![A-Za-z])|\u00f7", " / "),
        (r"\\(?:approx|simeq)(?![A-Za-z])|\u2243", "\u2248"),
        (r"\\(?:q?quad|implies|Rightarrow|Longrightarrow|therefore|rightarrow|to)(?![A-Za-z])|[\u21d2\u2192]", ";"),
        (r"\\(?:leq?|geq?|neq?|equiv|lt|gt)(?![A-Za-z])|[\u2261\u2264\u2265\u2260<>]|!=", " < "),
        (r"\\?%|\bpercent\b", "%"),
        (r"\u2212", "-"),
        (r"\b(?:km|mi|m|ft|cm)/(?:h|s|hr|sec|min)\b", " mph "),
        (r"(?<=[\w%)]) +[xX] +(?=[\d(.])|(?<=[\d)])(?<!\b0)[xX](?=[\d(])|(?<=\d)[xX] (?=\d)", " * "),
        (r"\b(?:times|multiplied by)\b", "*"),
        (r"\bdivided by\b", "/"),
        (r"(?<=\d) plus (?=\d)", "+"),
        (r"(?<=\d) minus (?=\d)", "-"),
        (r"\b(?:is equal to|equals)\b", "="),
    )
]
_NUMBERED_X = re.compile(r"(?<![\w.])[xX]\d|\d[xX]1\b.*\d[xX]2\b")  # 2x1 + 3x2 = 12
_TIGHT_X = re.compile(r"[xX](?=\d)")
_MARKED = re.compile(r"<<([^<>\n]*)>>")  # GSM8K's calculator marks
_LIST_MARK = re.compile(r"\s*(?:(?P<sign>[-*\u2022])\s+|\(?\d{1,2}\)\s)")
_GOES_ON = re.compile(r"[\d)}\]+*/=^\\-]\s*$")  # the end of a line whose formula the next line may continue
_STATEMENT = re.compile(r"([;\n?]|[.,](?=\s|$)|(?<!\s):(?=\s|$)|(?<![\d)}])!(?=\s|$))")
_TOKEN = re.compile(
    r"(?P<number>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?P<stuck>(?:[^\W_]|[,:]\d)+)?"
    r"|(?P<frac>\\[dtc]?frac(?![A-Za-z]))|(?P<binom>\\[dt]?binom(?![A-Za-z]))|(?P<sqrt>\\sqrt(?![A-Za-z\[]))"
    r"|(?P<command>\\(?:[A-Za-z]+|.))|(?P<word>[^\W\d_]+(?:['\u2019-][^\W\d_]+)*)(?P<called>[(\[_])?"
    r"|(?P<sign>[-+*/^])|(?P<open>[({\[])|(?P<close>[)}\]])|(?P<percent>%)|(?P<relation>[=\u2248<])|(?P<space>\s+)"
    r"|(?P<factorial>(?<=[\d)}])!)|(?P<unknown>.)"
)
_MOST_DIGITS = 60


def split_statements(text: str) -> Iterator[Statement]:
    """Each clause that holds a relation. Questions are left out: they state nothing."""
    marked = "\n".join(_MARKED.findall(text))
    plain = _without_list_marks(_MARKED.sub(" ", text)) + "\n" + marked
    if _NUMBERED_X.search(plain):
        plain = _TIGHT_X.sub("x_", plain)
    for pattern, put in _REWRITES:
        plain = pattern.sub(put, plain)
    parts = _STATEMENT.split(plain)
    ends = [*parts[1::2], ""]
    for number, (clause, end) in enumerate(zip(parts[::2], ends, strict=True)):
        if end != "?" and ("=" in clause or "\u2248" in clause):
            tokens = list(_tokenize_clause(clause))
            if number and ends[number - 1] == "\n" and parts[2 * number - 2].strip() and tokens[0].kind in OPERATORS:
                tokens.insert(0, Token("unknown", "\u2026"))  # the last line goes on
            yield Statement(tokens, "".join(parts[2 * number + 1 : 2 * number + 12]))


def _without_list_marks(text: str) -> str:
    """The text without `- ` and `1) ` before its items. A sign that continues the formula of the line above stays."""
    lines, above = [], ""
    for line in text.split("\n"):
        mark = _LIST_MARK.match(line)
        is_item = mark and not (mark["sign"] and _GOES_ON.search(above) and not _LIST_MARK.match(above))
        lines.append(" " + line[mark.end() :] if mark and is_item else line)
        above = line
    return "\n".join(lines)


def _tokenize_clause(clause: str) -> Iterator[Token]:
    tight, last = False, ""
    for match in _TOKEN.finditer(clause):
        kind, text = str(match.lastgroup), match.group()
        named = tight and last == "word"  # team2 and x1
        if kind == "stuck":
            yield _number_token(match["number"], tight)
            yield Token("word" if match["stuck"] in WORDS["tight_units"] else "unknown", match["stuck"], True)
        elif kind == "number":
            yield _number_token(text, tight) if not named else Token("unknown", text, tight)
        elif kind in ("sign", "open", "close", "factorial"):
            yield Token({"open": "(", "close": ")"}.get(kind, text), text, tight)
        elif kind == "called":  # f(2), dp[1] and total_1: what stands in the brackets is no factor
            yield Token("unknown", match["word"], tight)
            yield Token("(" if match["called"] in "([" else "unknown", match["called"], True)
        elif kind == "command" or (kind == "word" and (len(text) == 1 or text in WORDS["symbols"])):
            yield Token("unknown", text, tight)
        elif kind != "space":
            yield Token(kind, text, tight)
        tight, last = kind != "space", kind


def _number_token(text: str, tight: bool) -> Token:
    """A time of day such as 0900, a code or a number as long as a line is unknown."""
    known = not re.match(r"0\d", text) and len(text) <= _MOST_DIGITS
    return Token("number" if known else "unknown", text, tight)


OPERATORS = ("+", "-", "*", "/")
_SLASH = ["number", "/", "number"]
_LARGEST_POWER = 64
_LARGEST_COUNT = 60  # of which a factorial is worked out, and the upper number of a binomial
_LONGEST_UNIT = 4  # words, as in "cups of flour per cake"


class Unclear(ValueError):
    """The tokens are not an expression of plain numbers, or one that people read in different ways."""


@dataclass(frozen=True)
class Side:
    """One side of an equation.

    `values` are its readings, each with the unit of its last written place (None for a calculation, which has no such place).
    `is_bare` says that it is one number. `numbers` are all numbers in it, `units` the measures. `slack` is the relative error
    that its own decimals may have been rounded by, `places` how many it shows.
    """

    values: tuple[tuple[Fraction, Fraction | None], ...]
    is_bare: bool
    numbers: frozenset[Fraction]
    units: frozenset[str]
    slack: Fraction
    places: int
    share: bool = False  # `1/4 = 10 miles` and `20 % = 10 miles` are parts of something unsaid

    @property
    def value(self) -> Fraction:
        return self.values[0][0]


def read_expression(tokens: Sequence[Token]) -> Side:
    """All of the tokens as one expression. Raises Unclear."""
    bare, units = _without_units(tokens)
    kinds = [token.kind for token in bare]
    numbers = [token for token in bare if token.kind == "number"]
    if _is_range(bare):
        raise Unclear("5-8 is a range as well as a difference")
    is_bare = set(kinds) <= {"number", "percent", "-", "(", ")"} and len(numbers) == 1
    step = _last_place(bare, numbers, is_bare)
    readings: dict[Fraction, Fraction | None] = {}
    for read, percent, mixed, grouped in product(
        _spellings(bare),
        (Fraction(1, 100), Fraction(1)) if "percent" in kinds else (Fraction(1),),
        (True, False) if "frac" in kinds else (True,),
        (False, True) if "/" in kinds and "*" in kinds[kinds.index("/") :] else (False,),
    ):
        try:
            value = _Reading(read, percent, mixed, grouped).value()
            readings.setdefault(value, step and step * percent)
            if kinds[-1] == "!":  # "5 + 6 = 11!" may only be glad
                readings.setdefault(_Reading(read[:-1], percent, mixed, grouped).value(), step)
        except IndexError:
            raise Unclear("it ends too early") from None
        except ZeroDivisionError:
            raise Unclear("a division by zero") from None
    places = [len(token.text.partition(".")[2]) for token in numbers]
    fraction = len(numbers) == 2 and abs(next(iter(readings))) < 1 and ("frac" in kinds or kinds == _SLASH)
    percents = "percent" in kinds and kinds.count("percent") == kinds.count("number")
    return Side(
        values=tuple(readings.items()),
        is_bare=is_bare,
        numbers=frozenset(map(number_value, numbers)),
        units=units,
        slack=sum(map(_relative_rounding, numbers), Fraction(0)),
        places=max(places, default=0),
        share=fraction or percents,
    )


def number_value(token: Token) -> Fraction:
    return Fraction(token.text.replace(",", ""))


def _is_range(bare: Sequence[Token]) -> bool:
    """Whether it is `10-20`: pages, years or ages as well as a difference."""
    if [token.kind for token in bare] != ["number", "-", "number"] or not (bare[1].tight and bare[2].tight):
        return False
    low, high = number_value(bare[0]), number_value(bare[2])
    return low.denominator == high.denominator == 1 and low < high


def _spellings(bare: list[Token]) -> list[list[Token]]:
    """The tokens, and what else they may mean: `2-1/2 cups` two and a half, `1/3 of 150` a third that is said of something."""
    kinds = [token.kind for token in bare]
    found = [bare, bare[: kinds.index("of")]] if "of" in kinds else [bare]
    for at in range(1, len(bare) - 3):
        if kinds[at - 1 : at + 4] == ["number", "-", *_SLASH] and all(token.tight for token in bare[at : at + 4]):
            found.append(bare[:at] + bare[at + 1 :])
    return found


def _last_place(bare: Sequence[Token], numbers: Sequence[Token], is_bare: bool) -> Fraction | None:
    """The unit of the last place of a number as written: 1/100 of `2.50`, a million of `3.14 * 10^8`, or None."""
    if is_bare:
        return Fraction(1, 10 ** len(numbers[0].text.partition(".")[2]))
    written = "".join(token.text for token in bare).translate(_NO_BRACES)
    if scientific := _SCIENTIFIC.fullmatch(written):
        return Fraction(10) ** (int(scientific[2]) - len(scientific[1] or ""))
    return None


_NO_BRACES = str.maketrans("", "", "{}()[]")
_SCIENTIFIC = re.compile(r"-?(?:\d(?:\.(\d*))?\*)?10\^(-?\d{1,2})")


def _relative_rounding(token: Token) -> Fraction:
    """Half a unit of the last place, relative to the number, of a decimal that looks rounded: 0.67, but not 0.75 or 2.5."""
    places = len(token.text.partition(".")[2])
    value = number_value(token)
    if places < 2 or value * 10**places < 10 or (value * 20).denominator == 1:
        return Fraction(0)
    return Fraction(1, 2 * 10**places) / value


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
        end = unit_end(tokens, at)
        words = [token.text.lower() for token in tokens[at:end] if token.kind == "word"]
        measurable = bare and bare[-1].kind in ("number", ")", "percent", "!")
        changed = words[0] in WORDS["scales"] or (WORDS["changes"] | WORDS["parts"]) & set(words)
        if not measurable or changed or len(words) > _LONGEST_UNIT or _is_in_remark(tokens, at):
            raise Unclear(f"{tokens[at].text!r} is not a unit")
        if end < len(tokens) and tokens[end].kind not in ("+", "-", "*", "/", ")"):
            raise Unclear(f"{tokens[end].text!r} follows a unit")
        units |= WORDS["measures"] & set(words)
        at = end
    if not bare:
        raise Unclear("no number")
    if (len(units) > 1 or units & {"cent", "cents"}) and any(token.kind in "+-" for token in bare):
        raise Unclear("a sum of different measures")
    return bare, frozenset(units)


def _is_in_remark(tokens: Sequence[Token], at: int) -> bool:
    """Whether the word stands in brackets that explain the number before them: `15 (2 swaps) + 15 (3 swaps)`."""
    depth = 0
    for place in range(at - 1, 0, -1):
        depth += {")": 1, "(": -1}.get(tokens[place].kind, 0)
        if depth < 0:
            return tokens[place - 1].kind == "number" and not tokens[place].tight
    return False


def _is_share(bare: Sequence[Token]) -> bool:
    """Whether a percentage or a fraction stands at the end: a share of what follows."""
    kinds = [token.kind for token in bare[-3:]]
    in_brackets = kinds[-1] == ")" and any(token.kind == "frac" for token in bare)
    return kinds[-1] == "percent" or kinds == _SLASH or in_brackets


def unit_end(tokens: Sequence[Token], at: int) -> int:
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
    """Recursive descent over tokens. `percent` is the value of 1 %; with `mixed`, 2 1/2 is two and a half; with `grouped`,
    12/3*2 divides by both."""

    def __init__(self, tokens: Sequence[Token], percent: Fraction, mixed: bool, grouped: bool):
        self.tokens, self.percent, self.mixed, self.grouped, self.at = tokens, percent, mixed, grouped, 0

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
        value, divided, below = self.power(), False, False
        while (kind := self.kind()) in ("*", "/", "of", "(", "frac", "binom", "sqrt"):
            if divided and kind not in ("*", "of"):
                raise Unclear("a/b/c and a/b(c) are read in two ways")
            self.at += kind in ("*", "/", "of")
            divided = kind == "/"
            below = divided or (below and self.grouped and kind == "*")
            value = value / self.power() if below else value * self.power()
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
        elif token.kind == "binom":
            self.at += 1
            above, below = self.count(self.group()), self.count(self.group())
            value = Fraction(comb(above, below))
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
        if self.kind() == "!":
            self.at += 1
            value = Fraction(factorial(self.count(value)))
        if self.kind() == "percent":
            self.at += 1
            value *= self.percent
        return value

    def count(self, value: Fraction) -> int:
        """The value as a number of things to choose or to arrange."""
        if value.denominator != 1 or not 0 <= value <= _LARGEST_COUNT:
            raise Unclear("a count that is not worked out here")
        return int(value)

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
