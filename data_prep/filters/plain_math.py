r"""Arithmetic as people write it, in LaTeX or not, as tokens of one small language.

`3 \cdot \frac{1}{2}`, `3 x 1/2` and `3 times 1/2` become the same tokens. What this language does not have (variables,
subscripts, absolute values ...) becomes a token of its own that spoils the expression around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


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
        (r"(?:\\\\\s*(?:\[[^\]\n]*\])?|\n)\s*&?\s*(?==|\\approx|\u2248)", " "),  # a chain that goes on in the next line
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
_TIGHT_UNITS_WORDS = "mm cm km kg mg ml mL ft in lb lbs oz hr hrs min mins sec mph kmh km cents"
_TIGHT_UNITS = frozenset(_TIGHT_UNITS_WORDS.split())


def statements(text: str) -> Iterator[list[Token]]:
    """The tokens of each clause that holds a relation. Questions are left out: they state nothing."""
    marked = "\n".join(_MARKED.findall(text))
    plain = _MARKED.sub(" ", text) + "\n" + marked
    for pattern, put in _REWRITES:
        plain = pattern.sub(put, plain)
    parts = _STATEMENT.split(plain)
    for clause, end in zip(parts[::2], [*parts[1::2], ""], strict=True):
        if end != "?" and ("=" in clause or "\u2248" in clause):
            yield list(_tokens(clause))


def _tokens(clause: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(clause):
        kind, text = str(match.lastgroup), match.group()
        if kind == "stuck":
            yield Token("number", match["number"])
            yield Token("word" if match["stuck"] in _TIGHT_UNITS else "unknown", match["stuck"])
        elif kind == "number" and re.match(r"0\d", text):
            yield Token("unknown", text)  # a time of day such as 0900, or a code
        elif kind in ("sign", "open", "close"):
            yield Token({"open": "(", "close": ")"}.get(kind, text), text)
        elif kind == "word" and len(text) == 1:
            yield Token("unknown", text)
        elif kind != "space":
            yield Token(kind, text)
