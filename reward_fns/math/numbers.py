r"""Exact numbers as people and models write them: the fast path in front of math-verify.

`read` speaks only where no symbolic work is needed: integers, decimals, fractions, mixed numbers, thousands separators,
currency, percent and units, in plain text or LaTeX. `equal` is math-verify's own rule for such values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARACTERS = 200
ROUNDING = 10**6  # math-verify compares decimals at six places (float_rounding=6)


@dataclass(frozen=True)
class Number:
    """A figure; `exact` is false for decimals, which compare at six places; `factor` is what a percent sign (1/100) or
    a word such as million makes of it."""

    value: Fraction
    exact: bool = True
    factor: Fraction = Fraction(1)


def equal(a: Number, b: Number) -> bool:
    """Integers and fractions exactly, decimals at six places. A percentage equals its value and its figure: 9 % is
    0.09, and also 9 where the other side carries no sign (a gold of 9 for "how many percent"), as in math-verify; so
    does 9 million."""
    if a.factor != b.factor and same_value(a.value, b.value, a.exact and b.exact):
        return True
    return same_value(a.value * a.factor, b.value * b.factor, a.exact and b.exact)


def same_value(a: Fraction, b: Fraction, exact: bool) -> bool:
    return a == b if exact else round(a * ROUNDING) == round(b * ROUNDING)


WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("{", "}"), (r"\text{", "}"))
LATEX = (
    (re.compile(r"\\[dtc]?frac\s*(?=[\d{])"), r"\\frac"),
    (re.compile(r"\\frac(\d)"), r"\\frac{\1}"),
    (re.compile(r"(\\frac\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"\{(\d+)\}/\{(\d+)\}"), r"\1/\2"),
    (re.compile(r"\\(?:left|right|displaystyle|[,;:! ])"), ""),
    (re.compile(r"\\?[$€£¥]"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile("[\u2212\u2013]"), "-"),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\^\{?\\circ\}?|\\degree\b|°"), ""),
    (re.compile(r"\\hspace\{[^{}]*\}|\\q?quad\b"), " "),
    (re.compile(r"\\(?:text|mbox|mathrm)\s*\{([^{}\d]*)\}\s*\^(?:[23]|\{[23]\})"), r" \1 "),  # square units
    (re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf|underline)\s*\{([^{}]*)\}"), r" \1 "),
)
INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:[ ]\d{3})+|\d+)"
FACTORS = {"": Fraction(1), "thousand": Fraction(10**3), "million": Fraction(10**6), "billion": Fraction(10**9)}
FACTORS |= dict.fromkeys(("%", "percent", "pct"), Fraction(1, 100))
GLUED = r"(?<=\d)(?:[ckm]m|[km]g|m[lL]|mph|kph|ft|lbs?|hrs?|mins?|secs?)\b"  # 18cm is no product
GRAMMAR = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?:
        (?P<whole>{INTEGER})?\s*\\frac\{{\s*(?P<lsign>-?)\s*(?P<n1>\d+)\s*\}}\s*\{{\s*(?P<d1>\d+)\s*\}}
      | (?P<mixed>\d+)\s+(?P<n3>\d+)\s*/\s*(?P<d3>\d+)
      | (?P<before>\d*)\.(?P<fixed>\d*)\\overline\s*\{{(?P<repeated>\d+)\}}
      | (?P<n4>{INTEGER})\s*/\s*(?P<d4>{INTEGER})
      | (?P<int>{INTEGER})?(?P<decimal>\.\d+)?\.?
    )\s*(?P<factor>%|percent\b|pct\b|thousand\b|million\b|billion\b)?(?P<unit>(?:(?:\s+[A-Za-z]{{2,}}|{GLUED})\.?(?:\s*/\s*[A-Za-z]+)?(?:\^\{{?[23]\}}?)?)*)""",
    re.VERBOSE | re.IGNORECASE,
)


def read(text: str) -> Number | None:
    """The number `text` is, or None when it is anything else (an expression, two numbers, a word)."""
    text = text.strip()
    if not text or len(text) > MAX_CHARACTERS:
        return None
    match = GRAMMAR.fullmatch(plain(text))
    return None if match is None else value_of(match)


def plain(text: str) -> str:
    """`text` without delimiters, spacing commands, currency and final punctuation."""
    text = unwrap(text.rstrip(".,;: "))
    for pattern, replacement in LATEX:
        text = pattern.sub(replacement, text)
    return unwrap(text.strip())


def unwrap(text: str) -> str:
    for opening, closing in WRAPPERS:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            inner = text[len(opening) : -len(closing)].strip()
            if opening not in inner and closing not in inner:
                return unwrap(inner)
    return text


def value_of(match: re.Match[str]) -> Number | None:
    parts = match.groupdict()
    if parts["repeated"] is not None:
        return repeating(parts["before"] + parts["fixed"], len(parts["fixed"]), parts["repeated"], parts["sign"] == "-")
    numerator = parts["n1"] or parts["n3"] or parts["n4"]
    whole = digits(parts["whole"] or parts["mixed"] or parts["int"] or "0")
    if numerator is not None:
        denominator = digits(parts["d1"] or parts["d3"] or parts["d4"])
        if denominator == 0:
            return None
        value = Fraction(digits(numerator), denominator)
        value = whole + (-value if parts["lsign"] else value)
        exact = True
    elif parts["int"] is None and parts["decimal"] is None:
        return None
    else:
        value = whole + Fraction(f"0{parts['decimal']}" if parts["decimal"] else 0)
        exact = parts["decimal"] is None
    return Number(-value if parts["sign"] == "-" else value, exact, FACTORS[(parts["factor"] or "").lower()])


def repeating(start: str, places: int, period: str, negative: bool) -> Number:
    r"""0.3\overline{6} is (36 - 3) / 90."""
    value = Fraction(int(start + period) - int(start or "0"), 10**places * (10 ** len(period) - 1))
    return Number(-value if negative else value)


def digits(text: str) -> int:
    return int(text.replace(",", "").replace(" ", ""))
