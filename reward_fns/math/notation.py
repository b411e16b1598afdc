r"""Mathematical notation as people and models write it: Unicode signs as LaTeX, and exact numbers.

`read_number` answers only where no symbolic work is needed: integers, decimals, fractions, mixed numbers, scientific
notation, thousands separators, currency, percent and units, in plain text or LaTeX. `signs_to_latex` rewrites a root sign
before 3 as `\sqrt{3}`, and full-width characters as the plain ones.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from reward_fns.math import units

COMMANDS = {
    "\u2208": "in", "\u222a": "cup", "\u2229": "cap", "\u221e": "infty", "\u2205": "emptyset", "\u2264": "le",
    "\u2265": "ge", "\u2260": "ne", "\u00b1": "pm", "\u00d7": "times", "\u00f7": "div", "\u00b7": "cdot",
    "\u22c5": "cdot", "\u2220": "angle", "\u03b1": "alpha", "\u03b2": "beta", "\u03b8": "theta", "\u03c0": "pi",
    "\u03c6": "phi", "\u03c9": "omega",
}  # fmt: skip
SIGNS = str.maketrans({sign: rf"\{name} " for sign, name in COMMANDS.items()} | {"\u2212": "-", "\u2044": "/"})
PUNCTUATION = str.maketrans({"\u3002": ". ", "\u3001": ", ", "\uff61": ". "})
FULL_WIDTH = re.compile("[\uff01-\uff5e\u3000]")
RAISED = re.compile("[\u207a\u207b]?[\u00b2\u00b3\u00b9\u2070\u2074-\u2079\u207f]+")
FRACTION = re.compile("[\u00bc-\u00be\u2150-\u215e]")
ROOT = re.compile(r"\u221a\s*(?:\(([^()]*)\)|(\d+|\w))")


def signs_to_latex(text: str) -> str:
    """`text` with signs in LaTeX's spelling."""
    if text.isascii():
        return text
    text = plain_characters(text)
    text = FRACTION.sub(lambda match: r"\frac{{{}}}{{{}}}".format(*level_characters(match).split("/")), text)
    text = RAISED.sub(lambda match: f"^{{{level_characters(match)}}}", text)
    return ROOT.sub(r"\\sqrt{\1\2}", text).translate(SIGNS)


def plain_characters(text: str) -> str:
    """`text` with full-width digits, letters and signs, and Chinese punctuation, as the plain ones."""
    if text.isascii():
        return text
    return FULL_WIDTH.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text).translate(PUNCTUATION)


def level_characters(match: re.Match[str]) -> str:
    """The plain characters of raised digits and of fractions in one sign."""
    return unicodedata.normalize("NFKC", match.group()).replace("\u2044", "/").replace("\u2212", "-")


MAX_CHARACTERS = 200
ROUNDING = 10**6  # math-verify compares decimals at six places (float_rounding=6)
SMALL = Fraction(1, 1000)


@dataclass(frozen=True)
class Number:
    """A figure; `exact` is false for decimals, which compare at six places; `factor` is what a percent sign (1/100) or
    a word such as million makes of it; `words` are a unit or other words after it, behind a currency sign."""

    value: Fraction
    exact: bool = True
    factor: Fraction = Fraction(1)
    words: str = ""


def equal_numbers(gold: Number, given: Number) -> bool:
    """Integers and fractions exactly, decimals at six places, words by the rule of `units`. A percentage equals its value
    and its figure: 9 % is 0.09, and also 9 where the other side carries no sign (a gold of 9 for "how many percent"), as
    in math-verify; so does 9 million."""
    exact = gold.exact and given.exact
    same = same_fraction(gold.value * gold.factor, given.value * given.factor, exact)
    if not same and gold.factor != given.factor and 1 in (gold.factor, given.factor):
        same = same_fraction(gold.value, given.value, exact)
    return same and units.agree(gold.words, given.words)


def same_fraction(a: Fraction, b: Fraction, exact: bool) -> bool:
    """Equal; or, for decimals, equal at six places, and below 0.001 to a millionth of their size."""
    if exact or a == b:
        return a == b
    size = max(abs(a), abs(b))
    if size < SMALL:
        return abs(a - b) * ROUNDING <= size
    return round(a * ROUNDING) == round(b * ROUNDING)


DEGREE = r"\^\{?\\circ\}?|\\degree\b|°"
WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("{", "}"), (r"\text{", "}"))
LATEX = (
    (re.compile(r"\\[dtc]?frac\s*(?=[\d{])"), r"\\frac"),
    (re.compile(r"\\frac(\d)"), r"\\frac{\1}"),
    (re.compile(r"(\\frac\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"\{(\d+)\}/\{(\d+)\}"), r"\1/\2"),
    (re.compile(r"(?<=\d),\s*\\!\s*(?=\d{3})"), ","),
    (re.compile(r"\\(?:left|right|displaystyle|[,!])"), ""),
    (re.compile(r"\\[;: ]"), " "),
    (re.compile(rf"\\?[{units.SIGNS}]"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile("[\u2212\u2013]"), "-"),
    (re.compile(r"\\%"), "%"),
    (re.compile(rf"(?:{DEGREE})(?=\s*(?:\\(?:text|mathrm)\s*\{{)?[~\s]*[CFK]\b)"), ""),  # 20 °C is 20 C
    (re.compile(DEGREE), " deg "),
    (re.compile(r"\\hspace\{[^{}]*\}|\\q?quad\b"), " "),
    (re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf|underline)\s*\{~?([^{}]*)\}"), r" \1 "),
    (re.compile(r"\s*(?:\\(?:times|cdot)|(?<=[\d ])[*x])\s*(?=\{?10\}?\s*(?:\^|\*\*))"), "\u00d7"),
    (re.compile(r"\u00d7\s*\{?10\}?\s*(?:\^|\*\*)\s*\{?\s*([-+]?)\s*(\d{1,3})\s*\}?"), r"e\1\2"),
)
INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:[ ]\d{3})+|\d+)"
FACTORS = {"": Fraction(1), "thousand": Fraction(10**3), "million": Fraction(10**6), "billion": Fraction(10**9)}
FACTORS |= {"trillion": Fraction(10**12)}
FACTORS |= dict.fromkeys(("%", "percent", "pct"), Fraction(1, 100))
GLUED = r"(?<=\d)(?:[ckm]m|kg|m[lL]|mph|kph|ft|lbs?|hrs?|mins?|secs?)\b"  # 18cm is not a product
WORD = r"(?:[^\W\d_]{2,}(?:[-'][^\W\d_]+)*\.?|(?-i:[msghLlNJWVACKF])(?![^\W_]))"
EXPONENT = r"\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d)"
GRAMMAR = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?:
        (?P<whole>{INTEGER})?\s*\\frac\{{\s*(?P<lsign>-?)\s*(?P<n1>\d+)\s*\}}\s*\{{\s*(?P<d1>\d+)\s*\}}
      | (?P<mixed>\d+)\s+(?P<n3>\d+)\s*/\s*(?P<d3>\d+)
      | (?P<before>\d*)\.(?P<fixed>\d*)\\overline\s*\{{(?P<repeated>\d+)\}}
      | (?P<n4>{INTEGER})\s*/\s*(?P<d4>{INTEGER})
      | (?P<int>{INTEGER})?(?P<decimal>\.\d+)?\.?(?:\s*e(?P<exponent>[-+]?\d{{1,3}})(?!\w))?
    )\s*(?P<factor>%|percent\b|pct\b|thousand\b|million\b|billion\b|trillion\b)?
    (?P<words>(?:(?:\s+{WORD}|{GLUED})(?:\s*[/·]\s*{WORD}|{EXPONENT})*|\s*\({WORD}(?:\s+{WORD})*\)|\s*[\u4e00-\u9fff])*)\s*""",
    re.VERBOSE | re.IGNORECASE,
)


def read_number(text: str) -> Number | None:
    """The number `text` is, or None when it is anything else (an expression, two numbers, a word)."""
    text = text.strip()
    if not text or len(text) > MAX_CHARACTERS:
        return None
    if text.isascii() and text.isdigit():
        return Number(Fraction(int(text)))
    match = GRAMMAR.fullmatch(plain_number(text))
    if match is None:
        return None
    parts = match.groupdict()
    words = f"{currency_sign(text)} {parts['words']}".strip().replace("{", "").replace("}", "")
    if (period := parts["repeated"]) is not None:  # 0.3\overline{6} is (36 - 3) / 90
        start = parts["before"] + parts["fixed"]
        value = Fraction(int(start + period) - int(start or "0"))
        value /= 10 ** len(parts["fixed"]) * (10 ** len(period) - 1)
        return Number(-value if parts["sign"] == "-" else value, words=words)
    numerator = parts["n1"] or parts["n3"] or parts["n4"]
    whole = parse_digits(parts["whole"] or parts["mixed"] or parts["int"] or "0")
    if numerator is not None:
        denominator = parse_digits(parts["d1"] or parts["d3"] or parts["d4"])
        if denominator == 0:
            return None
        value = Fraction(parse_digits(numerator), denominator)
        value = whole + (-value if parts["lsign"] else value)
        exact = True
    elif parts["int"] is None and parts["decimal"] is None:
        return None
    else:
        value = whole + Fraction(f"0{parts['decimal']}" if parts["decimal"] else 0)
        exact = parts["decimal"] is None
        if power := parts["exponent"]:
            value *= Fraction(10) ** int(power)
            exact = exact and not power.startswith("-")
    return Number(-value if parts["sign"] == "-" else value, exact, FACTORS[(parts["factor"] or "").lower()], words)


DOLLARS = re.compile(r"\A\W*\$\s*[-+\u2212]?[\d.]|\d\s?\$\W*\Z")


def currency_sign(text: str) -> str:
    """The currency sign of a value, or "". A dollar sign is one if it is escaped, or stands alone beside the number: a second one
    makes both delimiters of a formula."""
    found = {sign for sign in text if sign in units.SIGNS and sign != "$"}
    if r"\$" in text or (text.count("$") == 1 and DOLLARS.search(text)):
        found.add("$")
    return "".join(sorted(found))


def plain_number(text: str) -> str:
    """`text` without delimiters, spacing commands, currency and final punctuation."""
    text = strip_wrappers(text if text.endswith("...") else text.rstrip(".,;: "))
    for pattern, replacement in LATEX:
        text = pattern.sub(replacement, text)
    return strip_wrappers(text.strip())


DELIMITERS = re.compile(r"(?<!\\)\\[()\[\]]|(?<!\\)\$|\*\*(?!\s*\d)|`")
ROW_SPACING = re.compile(r"\\\\\s*\[[^\]]*\]")

MODULE = re.compile(r"\b(?:np|numpy|math|sympy)\.(?=[a-z])")  # of a formula in Python

TIMES = re.compile(r"(?<=[\d ])x\s*(?=10\s*\^)")
NOON = re.compile(r"\s*\b([ap])\.m\b\.?", re.IGNORECASE)
BRACKETED = re.compile(r"\(\s*([A-Za-z]\s*\\in\b[^()]*)\)\s*\$?\Z")  # a condition, as in `2k\pi (k \in \mathbb{Z})`


def bare(text: str) -> str:
    """A formula without delimiters, emphasis and final punctuation."""
    text = ALIGNED.sub(last_row, text)
    text = TIMES.sub(r"\\times ", NOON.sub(r" \1m", BRACKETED.sub(r", \1", text)))
    text = DELIMITERS.sub("", MODULE.sub("", ROW_SPACING.sub(r"\\\\", text))).strip()
    return re.sub(r"(?:[,;:\s]|(?<![.l])\.(?!\.))+$", "", text).removesuffix("\\")


BRACES = re.compile(r"\\.|[{}]", re.DOTALL)


def closing_brace(text: str, start: int) -> int:
    """Index of the brace that closes the one before `start`, or -1."""
    depth = 1
    for token in BRACES.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return token.start()
    return -1


ALIGNED = re.compile(r"\\begin\{((?:align|gather|equation|split)(?:ed)?\*?)\}(.*?)\\end\{\1\}", re.DOTALL)


def last_row(match: re.Match[str]) -> str:
    """The result of aligned equations: what stands in the last row, without the sign that begins it."""
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", match.group(2)) if row.strip()]
    return rows[-1].replace("&", "").strip().removeprefix("=").strip() if rows else ""


def strip_wrappers(text: str) -> str:
    for opening, closing in WRAPPERS:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            inner = text[len(opening) : -len(closing)].strip()
            if opening not in inner and closing not in inner:
                return strip_wrappers(inner)
    return text


def parse_digits(text: str) -> int:
    return int(text.replace(",", "").replace(" ", ""))
