r"""Broken LaTeX: what will not render, and what a writer, a JSON decoder or a length limit has cut."""

import re

from data_prep.filters.vocabulary import WORDS

_ESCAPED = re.compile(r"\\[\\{}$]")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_EVIDENCE = re.compile(r"\\[A-Za-z]{2,}|\\[()]|\$[^$\n]*[\\^_{][^$\n]*\$")
_ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{([^{}]*)\}")
# "$12 an hour" is money: a dollar, a number, and then neither mathematics nor a closing dollar.
_MONEY = re.compile(r"(?<![\w$\\])\$\s?\d[\d,]*(?:\.\d+)?(?![\d.,]*\s*(?:[\\^_=+*/<>{}$-]|[a-z]\$))")
_PRICE = re.compile(r"\$\s?\d")
_LABELS = re.compile(r"\\(?:text|mbox|mathrm|textbf)\s*\{[^{}]*\}")
_PROSE = re.compile(r"[,.;:]\s+[A-Za-z]{2,}|(?<!\\)\b[A-Za-z]{3,}\s|\s[a-z]{2,}\s+[a-z]")
_FORMULA_SIGN = re.compile(r"[\\^_{}]|\d[a-z]\b|\b[a-z]\s*[-+=]")
_SENTENCE_END = re.compile(r"[.?!](?:\s|$)")
# A JSON reader that met \frac, \times, \right or \neq without a second backslash leaves a control character.
_DECODED = re.compile(
    r"[\x07\x08\x0b\x0c][a-z]{2,}|\t(?:imes|ext|heta|frac|riangle|an|au)(?![a-z])|\r(?:ight|ho|angle|floor|ceil)(?![a-z])"
    r"|\n(?:eq|abla)(?![a-z])"
)
_TWO_ARGUMENTS = re.compile(r"\\(?:[dtc]?frac|[dt]?binom)(?![A-Za-z])")
_ONE_ARGUMENT = re.compile(
    r"\\(?:sqrt(?:\s*\[[^\]]*\])?|boxed|fbox|(?:text|math)(?:bf|rm|it|bb|cal)|text|mbox|overline|underline|vec|hat|operatorname)"
    r"(?![A-Za-z])"
)
_ENVIRONMENT_NAME = re.compile(r"\\(?:begin|end)(?![A-Za-z])(?!\s*\{[A-Za-z]+\*?\})")
_CUT = re.compile(r"\\(?:(?:left|right)\s*)?[\s$]*$")
_OFTEN = WORDS["often_commands"]
_CUT_NAMES = {name[:end] for name in _OFTEN for end in range(2, len(name))} - _OFTEN - WORDS["short_commands"]


def find_broken_latex(text: str) -> str | None:
    """What is broken in the LaTeX of `text`, or None. Plain text with dollars of money is not LaTeX."""
    if _DECODED.search(text):
        return "a control character where a backslash command was"
    if not _EVIDENCE.search(text):
        return None
    bare = _ESCAPED.sub(" ", text)
    depth = 0
    for brace in re.findall("[{}]", bare):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return "a closing brace without an opening one"
    if depth:
        return f"{depth} unclosed brace"
    return (
        _check_environments(text)
        or _check_pairs(text)
        or _check_dollars(bare)
        or _cut_off(text)
        or _check_arguments(text)
    )


def _check_environments(text: str) -> str | None:
    opened: list[str] = []
    for kind, name in _ENVIRONMENT.findall(text):
        if kind == "begin":
            opened.append(name)
        elif not opened or opened.pop() != name:
            return f"\\end{{{name}}} without its \\begin"
    return f"\\begin{{{opened[-1]}}} without its \\end" if opened else None


def _check_pairs(text: str) -> str | None:
    commands = _COMMAND.findall(text)
    left, right = commands.count("left"), commands.count("right")
    if left != right:
        return f"{left} \\left, but {right} \\right"
    line_broken = text.replace("\\\\", "")  # `\\[2pt]` is a line break with its height
    for opening, closing in ((r"\[", r"\]"), (r"\(", r"\)")):
        if line_broken.count(opening) != line_broken.count(closing):
            return f"{opening} without its {closing}"
    return None


def _check_dollars(text: str) -> str | None:
    if text.count("$$") % 2:
        return "an odd number of $$"
    text = _LABELS.sub(" ", text.replace("$$", ""))
    at = text.find("$")
    while at >= 0:
        end = text.find("$", at + 1)
        if _is_money(text, at, end):
            end = at
        elif end < 0:
            return f"a $ without its partner before {text[at : at + 20]!r}"
        at = text.find("$", end + 1)
    return None


def _is_money(text: str, at: int, end: int) -> bool:
    """Whether the dollar at `at` stands before a price and opens no formula; `end` is where the next one is."""
    if not _PRICE.match(text, at):
        return False
    inside = text[at + 1 : end] if end >= 0 else text[at + 1 :]
    if end < 0:
        return bool(_MONEY.match(text, at)) or not _FORMULA_SIGN.search(_SENTENCE_END.split(inside)[0])
    if _PRICE.match(text, end) and not (text[end - 1].isalnum() and not text[end + 1].isdigit()):
        return True  # `$5 * 3 = $15`: a dollar before a digit closes nothing
    return bool(_PROSE.search(inside)) and (bool(_MONEY.match(text, at)) or not _FORMULA_SIGN.search(inside))


def _cut_off(text: str) -> str | None:
    names = _COMMAND.findall(text.replace("\\\\", " "))
    if cut := next((name for name in names if name in _CUT_NAMES), None):
        return f"\\{cut} is a command cut short"
    closed = re.sub(r"\\[\])]", "", text)
    tail = closed.rstrip(" \n\t.$)]")
    last = re.search(r"\\([A-Za-z]+)$", tail)
    if _CUT.search(closed) or (
        last and last.group(1) not in WORDS["closing_commands"] and len(tail) == len(text.rstrip())
    ):
        return f"ends inside a command: {text.rstrip()[-20:]!r}"
    return None


def _check_arguments(text: str) -> str | None:
    """A command without the arguments that it takes. The braces of `text` are known to be balanced."""
    for pattern, count in ((_TWO_ARGUMENTS, 2), (_ONE_ARGUMENT, 1)):
        for command in pattern.finditer(text):
            end = command.end()
            for _ in range(count):
                end = _after_argument(text, end, empty=count == 1)
                if end < 0:
                    return f"{command.group()} without {'both its arguments' if count == 2 else 'its argument'}"
    if named := _ENVIRONMENT_NAME.search(text):
        return f"{named.group()} without a name"
    return None


_BARE_ARGUMENT = re.compile(
    r"\\(?!(?:right|left|times|cdot|div|pm|end|approx|leq?|geq?|neq?|equiv|q?quad|implies|in|to)(?![A-Za-z]))[A-Za-z]+"
    r"|[A-Za-z0-9-]"
)


def _after_argument(text: str, at: int, *, empty: bool) -> int:
    """Where the argument that starts at `at` ends, or -1 if there is none (or an `empty` one that may not be)."""
    at += len(text[at:]) - len(text[at:].lstrip()) if text[at : at + 1].isspace() else 0
    if text[at : at + 1] != "{":
        bare = _BARE_ARGUMENT.match(text, at)
        return bare.end() if bare else -1
    depth = 0
    for brace in _BRACE.finditer(text, at):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.end() if empty or text[at + 1 : brace.start()].strip() else -1
    return -1


_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
