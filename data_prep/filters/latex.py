r"""Broken LaTeX: what will not render, and what a writer, a JSON decoder or a length limit has cut."""

from __future__ import annotations

import re

_ESCAPED = re.compile(r"\\[\\{}$]")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_EVIDENCE = re.compile(r"\\[A-Za-z]{2,}|\$[^$\n]*[\\^_{][^$\n]*\$")
_ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{([^{}]*)\}")
# "$12 an hour" is money: a dollar, a number, and then neither mathematics nor a closing dollar.
_MONEY = re.compile(r"(?<![\w$\\])\$\s?\d[\d,]*(?:\.\d+)?(?![\d.,]*\s*(?:[\\^_=+*/<>{}$-]|[a-z]\$))")
# A JSON reader that met \frac, \times, \beta, \alpha or \vec without a second backslash leaves a control character.
_DECODED = re.compile(r"\x0crac|\x09imes|\x08eta|\x07lpha|\x0bec|[\x07\x08\x0b\x0c][a-z]{2,}")
_CUT = re.compile(
    r"\\(?:[dt]?frac|binom)\s*(?:\{[^{}]*\}\s*)?$|\\(?:sqrt|text|mathrm|boxed|begin|end|left|right)\s*$|\\$"
)
_STANDS_ALONE = {
    "pi", "infty", "circ", "ldots", "dots", "cdots", "square", "blacksquare", "qed", "degree", "alpha", "beta", "gamma",
    "theta", "lambda", "mu", "sigma", "phi", "omega", "rangle", "rfloor", "rceil", "prime", "emptyset", "varnothing",
    "quad", "qquad", "checkmark", "rvert", "Omega", "Delta", "hline", "triangle", "angle", "pounds", "therefore",
}  # fmt: skip


def flaw(text: str) -> str | None:
    """What is broken in the LaTeX of `text`, or None. Plain text with dollars of money is not LaTeX."""
    if _DECODED.search(text):
        return "a control character where a backslash command was"
    if not _EVIDENCE.search(text):
        return None
    bare = _ESCAPED.sub("", text)
    return _braces(bare) or _environments(text) or _pairs(text) or _dollars(bare) or _cut_off(text)


def _braces(text: str) -> str | None:
    depth = 0
    for char in text:
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return "a closing brace without an opening one"
    return f"{depth} unclosed brace" if depth else None


def _environments(text: str) -> str | None:
    opened: list[str] = []
    for kind, name in _ENVIRONMENT.findall(text):
        if kind == "begin":
            opened.append(name)
        elif not opened or opened.pop() != name:
            return f"\\end{{{name}}} without its \\begin"
    return f"\\begin{{{opened[-1]}}} without its \\end" if opened else None


def _pairs(text: str) -> str | None:
    commands = _COMMAND.findall(text)
    left, right = commands.count("\\left"), commands.count("\\right")
    if left != right:
        return f"{left} \\left, but {right} \\right"
    for opening, closing in ((r"\[", r"\]"), (r"\(", r"\)")):
        line_broken = text.replace("\\\\", "")  # `\\[2pt]` is a line break with its height
        if line_broken.count(opening) != line_broken.count(closing):
            return f"{opening} without its {closing}"
    return None


def _dollars(text: str) -> str | None:
    without_display = text.replace("$$", "")
    if (text.count("$") - without_display.count("$")) % 4:
        return "an odd number of $$"
    odd = without_display.count("$") % 2 and _MONEY.sub("", without_display).count("$") % 2
    return "an odd number of $" if odd else None


def _cut_off(text: str) -> str | None:
    tail = text.rstrip(" \n\t.$)]")
    last = re.search(r"\\([A-Za-z]+)$", tail)
    if _CUT.search(tail) or (last and last.group(1) not in _STANDS_ALONE and len(tail) == len(text.rstrip())):
        return f"ends inside a command: {text.rstrip()[-20:]!r}"
    return None
