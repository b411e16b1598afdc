"""False steps: equations between numbers, such as `12*7=74`, that a machine can check.

One principle decides what is judged: a side of an equation is compared only if it was read entirely, from the words before it to
the words behind it (`expressions.py` has the language). What people read in two ways must be false in both. A rounded result
counts as right, and so do a sloppy chain (`3*4 = 12 + 5 = 17`), a conversion (`45 minutes * 4 = 3 hours`) and a trial that the
text rejects (`9 - 6 = 5, a contradiction`). Congruences and other bases are not judged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from data_prep.filters.expressions import (
    OPERATORS,
    Side,
    Statement,
    Token,
    Unclear,
    read_expression,
    split_statements,
    unit_end,
)
from data_prep.filters.vocabulary import WORDS

_RELATION = re.compile(r"[=\u2248]|\\approx|\\simeq|\bequal")
_OTHER_LINE = re.compile(r"\bmod(?:ulo)?\b|\\[pb]mod|\bbase\b|\bremainder\b|\b[rR]\s?\d|\bbinary\b|o'clock")
_OTHER_BASE = re.compile(
    r"\b(?:in|into|to|from) base\b|\bbase-\d|\bbase (?:two|three|four|five|six|seven|eight|nine|twelve|sixteen)\b"
    r"|(?<![\w.])\d+_\{?(?:[2-9]|1[0-6])\b|\b(?:octal|hexadecimal)\b",
    re.IGNORECASE,
)
_MODULUS = re.compile(r"(?:\\[pb]mod|\bmod(?:ulo)?\b)[\s{$(]*(\d{1,6})", re.IGNORECASE)
_OWN_OPERATION = re.compile(r"(?<![A-Za-z])[A-Za-z]\s*(?:\*|\\ast)\s*[A-Za-z]\s*=[^=\n]*[-+^]")  # a * b = a^2 - b
_REJECTED = re.compile(
    r"contradict|reject|made a mistake|false (?:equation|statement)|\bwhether\b|\b(?:check|see|test) if\b"
    r"|\b(?:is|was|be|that's) (?:\w+ )?(?:impossible|incorrect|wrong|false|absurd|invalid)\b"
    r"|\b(?:not|does not|doesn't|don't|isn't) (?:true|equal|possible|correct|valid|right|hold|match|satisf\w+|work|a solution)"
    r"|\b(?:wait[,.!:]|hmm|oops|actually,|fails|no[,.!])(?!\w)|[\u2717\u2718\u274c]",
    re.IGNORECASE,
)
_REJECTED_WITHIN = 160  # characters behind an equation
_LONGEST_SIDE = 60  # tokens of a side that are looked at
_CLEAR_OF = 2  # words between a number and the expression that it does not belong to
_CHANGED_OF = re.compile(
    r"half|thirds?|fourths?|quarters?|fifths?|sixths?|eighths?|tenths?|percent|square|cube|rest|out|roots?|average|mean|median"
    r"|reciprocal|inverse|negative|opposite|logarithm|log|factorial|double|triple|digits?|multiples?|factors?|power|remainder|instead",
    re.IGNORECASE,
)
_FACTORS = frozenset(
    (2, 3, 4, 7, 8, 10, 12, 16, 24, 25, 30, 36, 52, 60, 100, 144, 365, 1000, 1728, 1760, 3600, 5280, 10_000, 86_400, 10**6)
)  # fmt: skip
_ROUGH_FACTORS = tuple(
    map(Fraction, ("2.54", "1.609", "3.6", "2.2", "28.35", "3.785", "3.28"))
)  # between metric and other units


def find_false_step(text: str) -> str | None:
    """The first false step of `text`, or None."""
    if not _RELATION.search(text) or _OTHER_BASE.search(text) or _OWN_OPERATION.search(text):
        return None
    judged = "\n".join("" if _OTHER_LINE.search(line) else line for line in text.split("\n"))
    moduli = frozenset(int(found) for found in _MODULUS.findall(text)) - {0}
    for statement in split_statements(judged):
        found = _false_link(statement.tokens, moduli)
        if found and not _is_rejected(statement):
            return found
    return None


def _is_rejected(statement: Statement) -> bool:
    words = " ".join(token.text for token in statement.tokens if token.kind in ("word", "unknown"))
    return bool(_REJECTED.search(words) or _REJECTED.search(statement.following[:_REJECTED_WITHIN]))


def _false_link(tokens: list[Token], moduli: frozenset[int]) -> str | None:
    """The first two neighbours of a chain of equalities that differ, with the value of the left one."""
    cuts = [place for place, token in enumerate(tokens) if token.kind == "relation"]
    parts = [tokens[low:high] for low, high in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(tokens)], strict=True)]
    for number, cut in enumerate(cuts):
        if tokens[cut].text == "<":
            continue
        left = _read_ending(parts[number], named=number == 0)
        right = _read_beginning(parts[number + 1]) if left else None
        if (
            left
            and right
            and _is_false(left, right, tokens[cut].text, moduli)
            and not (number and _ends_in(parts[number], right))
        ):
            written = ["".join(f" {token.text}" for token in part[-12:]).strip() for part in parts[number : number + 2]]
            return f"{written[0][-60:]} {tokens[cut].text} {written[1][:60]}, but it is {float(left.value):g}"
    return None


def _ends_in(tokens: Sequence[Token], right: Side) -> bool:
    """Whether a last term alone has the value: `3 * 5 = 15 + 2 * 4 = 8` is two results in one line."""
    last = max((at for at, token in enumerate(tokens) if token.kind in ("+", "-")), default=len(tokens))
    end = _read_whole(tokens[last + 1 :])
    return end is not None and not end.is_bare and end.value == right.value


def _read_whole(tokens: Sequence[Token]) -> Side | None:
    try:
        return read_expression(tokens) if 0 < len(tokens) <= _LONGEST_SIDE else None
    except Unclear:
        return None


def _read_ending(tokens: Sequence[Token], named: bool) -> Side | None:
    """The expression at the end of some words. Where those may name a thing, a single number is part of it."""
    tokens = tokens[-_LONGEST_SIDE:]
    starts = (place for place in range(len(tokens)) if _may_start(tokens, place))
    side = next((side for place in starts if (side := _read_whole(tokens[place:]))), None)
    return None if side and named and side.is_bare and len(tokens) > 1 else side


def _may_start(tokens: Sequence[Token], place: int) -> bool:
    """Whether an expression starts here: at words that end what stood before, and do not change what follows."""
    if place == 0:
        return True
    before = tokens[place - 1]
    if tokens[place].kind not in ("number", "(", "frac", "binom", "sqrt") or before.kind not in ("word", "("):
        return False
    signs = [at for at in range(place) if tokens[at].kind in OPERATORS]
    if signs and not _has_part(tokens[signs[-1] : place]):
        return False  # a sum with words in it
    if before.kind == "(":
        return place == 1 or tokens[place - 2].kind == "word"
    first = next((at + 1 for at in range(place - 1, -1, -1) if not _is_prose(tokens[at])), 0)
    if first and place - first < _CLEAR_OF and not _has_part(tokens[first:place]):
        return False  # "7 out of 5 * 3", "5 choose 2 * 3"
    if before.text in WORDS["labels"] and tokens[place].kind == "number":
        return False  # "Day 2 * 3", "term 1 + 4 * 3"
    if before.text.lower() == "and" and 0 < first == place - 1:
        return False  # "2 and 1/2 * 4", "between 3 and 4 * 5"
    if before.text == "of" and place > 1:
        whole = tokens[place - 2]  # "a third of 30 * 2" is a share, "the price of 30 * 2" is not
        return whole.kind == "word" and not _CHANGED_OF.fullmatch(whole.text)
    return before.text.lower() not in WORDS["binds"]


def _is_prose(token: Token) -> bool:
    return token.kind == "word" or token.text in ("a", "A", "I")


def _has_part(tokens: Sequence[Token]) -> bool:
    return any(token.text.lower() in WORDS["parts"] for token in tokens)


def _read_beginning(tokens: Sequence[Token]) -> Side | None:
    """The expression at the start of a clause's words."""
    tokens = tokens[:_LONGEST_SIDE]
    ends = (place for place in range(len(tokens), 0, -1) if _may_end(tokens, place))
    return next((side for place in ends if (side := _read_whole(tokens[:place]))), None)


def _may_end(tokens: Sequence[Token], place: int) -> bool:
    """Whether an expression ends here: at words after which it does not go on."""
    if place == len(tokens) or tokens[place].kind == ")":
        return True
    if tokens[place].kind != "word" or tokens[place].text.lower() in WORDS["continues"]:
        return False
    end = unit_end(tokens, place)
    words = {token.text.lower() for token in tokens[place:end]}
    kinds = [token.kind for token in tokens[end : end + 2]]
    if kinds[:1] == ["number"] and words <= (WORDS["measures"] - {"in"}) | {"and"}:
        return kinds[1:] not in (["word"], ["/"])  # 2 and 1/2, 1 hour 30 minutes, $3 and 50 cents
    return kinds[:1] not in [[sign] for sign in (*OPERATORS, "^")] or _has_part(tokens[place:end])


def _is_false(left: Side, right: Side, relation: str, moduli: frozenset[int]) -> bool:
    if left.is_bare and right.is_bare:
        return False  # two numbers: units or words make them equal
    if any(_values_agree(one, other, relation) for one in left.values for other in right.values):
        return False
    one, other = left.value, right.value
    if not right.is_bare and any(value in right.numbers for value, _ in left.values):
        return False  # 3*4 = 12 + 5 = 17: the chain continues from its result
    if _agree_as_rounded(left, right):
        return False
    if any((one - other) % modulus == 0 for modulus in moduli):
        return False
    if left.share != right.share:
        return max(abs(one), abs(other)) < 1
    return left.units == right.units or not _is_conversion(left, right)


def _is_conversion(left: Side, right: Side) -> bool:
    if not left.value or not right.value:
        return False
    ratio = max(left.value / right.value, right.value / left.value)
    is_rough = left.units and right.units and any(abs(ratio - factor) * 100 <= factor for factor in _ROUGH_FACTORS)
    return is_rough or ratio in _FACTORS


def _values_agree(
    one: tuple[Fraction, Fraction | None], other: tuple[Fraction, Fraction | None], relation: str
) -> bool:
    """Whether two values are equal, or one is the other rounded or cut at the last place that it is written with."""
    (a, place_of_a), (b, place_of_b) = one, other
    error = abs(a - b)
    if error * 10**9 <= abs(a):
        return True  # equal, or as a computer prints it
    if relation == "\u2248":
        estimated = place_of_a is None and place_of_b is None  # 37 * 62 is about 40 * 60
        if error * (4 if estimated else 20 if b % 100 == 0 else 200) <= abs(a):
            return True
    for written, place in ((b, place_of_b), (a, place_of_a)):
        if place is None or (place > 1 and written is a):
            continue  # a calculation, or a power of ten that is written out on the right
        while relation == "\u2248" and place >= 1 and written % (place * 10) == 0 and place < abs(written):
            place *= 10  # 1287 is about 1300
        if error < place:
            return True
    return False


def _agree_as_rounded(left: Side, right: Side) -> bool:
    """Whether the decimals of the finer side, if they were rounded, make up the difference: `0.67 * 300 = 200`."""
    error = abs(left.value - right.value)
    if left.is_bare or right.is_bare:
        calculation, number = (right, left) if left.is_bare else (left, right)
        return number.places < calculation.places and error <= calculation.slack * abs(calculation.value)
    return max(left.places, right.places) > 0 and error * 100 <= abs(left.value)
