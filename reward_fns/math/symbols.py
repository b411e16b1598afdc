r"""Mathematical signs of Unicode, which models write outside LaTeX, as LaTeX: the sign of a root before 3 as `\sqrt{3}`."""

from __future__ import annotations

import re
import unicodedata

COMMANDS = {
    "\u2208": "in", "\u222a": "cup", "\u2229": "cap", "\u221e": "infty", "\u2205": "emptyset", "\u2264": "le",
    "\u2265": "ge", "\u2260": "ne", "\u00b1": "pm", "\u00d7": "times", "\u00f7": "div", "\u00b7": "cdot",
    "\u22c5": "cdot", "\u2220": "angle", "\u03b1": "alpha", "\u03b2": "beta", "\u03b8": "theta", "\u03c0": "pi",
    "\u03c6": "phi", "\u03c9": "omega",
}  # fmt: skip
SIGNS = str.maketrans({sign: rf"\{name} " for sign, name in COMMANDS.items()} | {"\u2212": "-", "\u2044": "/"})
SQUARE_UNIT = re.compile(
    r"(?<=\d)\s?(?:[ckm]?m|ft|in|yd)[\u00b2\u00b3]"
)  # after a number it measures, it multiplies nothing
RAISED = re.compile("[\u207a\u207b]?[\u00b2\u00b3\u00b9\u2070\u2074-\u2079\u207f]+")
FRACTION = re.compile("[\u00bc-\u00be\u2150-\u215e]")
ROOT = re.compile(r"\u221a\s*(?:\(([^()]*)\)|(\d+|\w))")


def latex(text: str) -> str:
    """`text` with signs in LaTeX's spelling."""
    if text.isascii():
        return text
    text = SQUARE_UNIT.sub("", text)
    text = FRACTION.sub(lambda match: r"\frac{{{}}}{{{}}}".format(*compatible(match).split("/")), text)
    text = RAISED.sub(lambda match: f"^{{{compatible(match)}}}", text)
    return ROOT.sub(r"\\sqrt{\1\2}", text).translate(SIGNS)


def compatible(match: re.Match[str]) -> str:
    """The plain characters of raised digits and of fractions in one sign."""
    return unicodedata.normalize("NFKC", match.group()).replace("\u2044", "/").replace("\u2212", "-")
