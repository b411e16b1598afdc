r"""False steps: equations between numbers, such as `12*7=74`, that a machine can check.

Every two neighbours in a chain of equalities are compared if both are expressions of plain numbers: decimals, fractions,
percents, powers, money and units, in LaTeX or not. Not judged: anything with a letter, other bases, congruences, and what
people read in two ways. A rounded result counts as right, and so does a sloppy chain (`3*4 = 12 + 5 = 17`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from data_prep.filters.expressions import Side, Unclear, read
from data_prep.filters.plain_math import Token, statements

_OTHER_ARITHMETIC = re.compile(r"\bmod(?:ulo)?\b|\\[pb]mod|\bbase\b|\bremainder\b|\b[rR]\s?\d|\bbinary\b|o'clock")
_RELATION = re.compile(r"[=\u2248]|\\approx|\\simeq|\bequal")
_LONGEST = 60  # tokens of a side that are looked at
# What may not stand before an expression: it would belong to it ("half of 30 * 2", "5 more than 3 * 4", "log 100 * 2").
_BINDS_WORDS = (
    "than times twice thrice half by plus minus negative log ln sin cos tan sqrt root max min gcd lcm to dozen "
    "hundred thousand million per double triple"
)
_BINDS = frozenset(_BINDS_WORDS.split())
_SHARES = re.compile(r"half|thirds?|fourths?|quarters?|fifths?|sixths?|eighths?|tenths?|percent|square|cube|rest", re.I)
# What may not follow one: 3 dozen, 2 pm, 5 mod 3.
_GOES_ON_WORDS = "dozen hundred thousand million billion of mod modulo remainder am pm x times halves thirds quarters"
_GOES_ON = frozenset(_GOES_ON_WORDS.split())
# What parts two statements of one clause: "3*4 is 12 and 12+5 = 17".
_PARTS_WORDS = "and so then is are because which since gives makes means that if hence thus"
_PARTS = frozenset(_PARTS_WORDS.split())
_RATIOS = frozenset(
    Fraction(n) for n in (2, 3, 4, 7, 8, 10, 12, 16, 24, 25, 30, 36, 52, 60, 100, 365, 1000, 3600, 5280)
)


def flaw(text: str) -> str | None:
    """The first false step of `text`, or None."""
    if not _RELATION.search(text):
        return None
    for line in text.split("\n"):
        if _OTHER_ARITHMETIC.search(line):
            text = text.replace(line, "")
    for tokens in statements(text):
        if found := _false_link(tokens):
            return found
    return None


def _false_link(tokens: list[Token]) -> str | None:
    cuts = [place for place, token in enumerate(tokens) if token.kind == "relation"]
    parts = [tokens[low:high] for low, high in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(tokens)], strict=True)]
    if len(parts) < 2:
        return None
    for number, cut in enumerate(cuts):
        if tokens[cut].text == "<":
            continue
        left = _ending(parts[number], named=number == 0)
        right = _beginning(parts[number + 1]) if left else None
        if left and right and _is_false(left, right, tokens[cut].text):
            written = ["".join(f" {token.text}" for token in part[-12:]).strip() for part in parts[number : number + 2]]
            return f"{written[0][-60:]} {tokens[cut].text} {written[1][:60]}, but it is {float(left.values[0]):g}"
    return None


def _whole(tokens: Sequence[Token]) -> Side | None:
    try:
        return read(tokens) if 0 < len(tokens) <= _LONGEST else None
    except Unclear:
        return None


def _ending(tokens: Sequence[Token], named: bool) -> Side | None:
    """The longest expression at the end of some words. Where those may name a thing, a single number is part of it."""
    tokens = tokens[-_LONGEST:]
    starts = (place for place in range(len(tokens)) if _may_start(tokens, place))
    side = next((side for place in starts if (side := _whole(tokens[place:]))), None)
    return None if side and named and side.decimals is not None and len(tokens) > 1 else side


def _may_start(tokens: Sequence[Token], place: int) -> bool:
    if place == 0:
        return True
    before = tokens[place - 1]
    signs = [at for at in range(place) if tokens[at].kind in ("+", "-", "*", "/")]
    if signs and not any(token.text in _PARTS for token in tokens[signs[-1] : place]):
        return False  # a sum with words in it
    if tokens[place].kind not in ("number", "(", "frac", "sqrt") or before.kind not in ("word", "("):
        return False
    if before.kind == "(":
        return place == 1 or tokens[place - 2].kind == "word"
    shared = (
        before.text == "of"
        and place > 1
        and (tokens[place - 2].kind != "word" or _SHARES.search(tokens[place - 2].text))
    )
    return before.text.lower() not in _BINDS and not shared


def _beginning(tokens: Sequence[Token]) -> Side | None:
    """The longest expression at the start of a clause's words."""
    tokens = tokens[:_LONGEST]
    ends = (place for place in range(len(tokens), 0, -1) if _may_end(tokens, place))
    return next((side for place in ends if (side := _whole(tokens[:place]))), None)


def _may_end(tokens: Sequence[Token], place: int) -> bool:
    if place == len(tokens):
        return True
    after = tokens[place]
    if after.text == "and" and [token.kind for token in tokens[place + 1 : place + 3]] == ["number", "/"]:
        return False  # 2 and 1/2
    return after.kind == ")" or (after.kind == "word" and after.text.lower() not in _GOES_ON)


def _is_false(left: Side, right: Side, relation: str) -> bool:
    if left.decimals is not None and right.decimals is not None:
        return False  # two numbers: units or words make them equal
    if any(_agree(a, b, left, right, relation) for a in left.values for b in right.values):
        return False
    if any(value in right.numbers for value in left.values) and right.decimals is None:
        return False  # 3*4 = 12 + 5 = 17: the chain goes on from its result
    if (left.share and not right.share) or (right.share and not left.share):
        return max(abs(left.values[0]), abs(right.values[0])) < 1
    return not (left.units or right.units) or not _converted(left.values[0], right.values[0])


def _converted(left: Fraction, right: Fraction) -> bool:
    return bool(left and right) and (left / right in _RATIOS or right / left in _RATIOS)


def _agree(a: Fraction, b: Fraction, left: Side, right: Side, relation: str) -> bool:
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
