r"""Tokens of an answer in LaTeX or plain text. Styles, colours and spacing are left out; words and letters are told apart."""

import re
from dataclasses import dataclass, replace

from reward_fns.math import notation, units, vocabulary

MAX_TOKENS = 400
MAX_EXPONENT = 999


class Unclear(ValueError):
    """Outside the language that is read here."""


@dataclass(frozen=True)
class Token:
    """One sign, number, command or word. A `roman` letter is upright; `unit?` is a letter that may be a unit."""

    kind: str  # number, decimal, scientific, symbol, roman, unit?, word, command, sign, currency
    text: str
    spaced: bool = False  # white space before it


FUNCTIONS = vocabulary.words("formula", "functions")
GREEK = vocabulary.words("formula", "letters")
RELATIONS = {
    "=": "=", "<": "<", ">": ">", "le": "<=", "leq": "<=", "leqslant": "<=", "leqq": "<=", "ge": ">=", "geq": ">=",
    "geqslant": ">=", "geqq": ">=", "lt": "<", "gt": ">", "ne": "!=", "neq": "!=", "in": "in", "notin": "notin", "ni": "ni",
    "subset": "subset", "subseteq": "subseteq", "supset": "supset", "supseteq": "supseteq", "approx": "~", "simeq": "~",
    "sim": "sim", "cong": "cong", "equiv": "equiv", "parallel": "parallel", "perp": "perp", "propto": "propto", "to": "to",
    "rightarrow": "to", "mapsto": "mapsto", "Rightarrow": "implies", "implies": "implies", "iff": "iff", "Leftrightarrow": "iff",
}  # fmt: skip
SPACES = re.compile(r"\\(?:[ ,;:!>]|q?quad(?![A-Za-z])|[hv]space\*?\{[^{}]*\}|(?:no|)break(?![A-Za-z]))|~|\s")
IGNORED = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|bf|it|rm|sf|tt|cal|boldmath|tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![A-Za-z])"
    r"|\\(?:color|textcolor)\s*(?:\[\w+\])?\{[^{}]*\}|\\phantom\{[^{}]*\}"
)
STYLES = vocabulary.listed("formula", "styles")
STYLE = re.compile(rf"\\(?:{'|'.join(STYLES)})(?![A-Za-z])")
TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textup|mbox|hbox|mathrm|operatorname\*?)(?![A-Za-z])\s*\{"
)
NUMBER = re.compile(
    r"\d{1,3}(?:(?:,|\{,\}|\\,|,\s?\\!\s?|\{\\,\}|\\ )\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d+)?(?:\.(?=/))?|\.\d+"
)
SCIENTIFIC = re.compile(r"(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d+)(?![\w.])")
COMMAND = re.compile(r"\\([A-Za-z]+\*?|[{}|%$&#_\\])")
LETTERS = re.compile(r"[^\W\d_]+")
DOTS = re.compile(r"\.\.\.|\u2026|\\(?:[lc]?dots|dots[cbmio]|ldotp)(?![A-Za-z])")
SAME = {
    "dfrac": "frac",
    "tfrac": "frac",
    "cfrac": "frac",
    "dbinom": "binom",
    "tbinom": "binom",
    "varnothing": "emptyset",
}
PLAIN = {"pi": "pi", "infinity": "infty", "inf": "infty", "infty": "infty", "sqrt": "sqrt", "oo": "infty"}
PLAIN |= {name: name for name in FUNCTIONS - {"deg", "dim", "arg", "Re", "Im", "max", "min"}}
JOINS = {
    "and": "and",
    "or": "or",
    "\u548c": "and",
    "\u6216": "or",
    "\u4e0e": "and",
    "\u53ca": "and",
    "\u4ee5\u53ca": "and",
}
JOINS |= {"\u6216\u8005": "or"}
CONDITIONS = frozenset(("where", "with", "for", "such that", "\u5176\u4e2d"))  # join a condition as a comma does
GROUPED, DIGITS = re.compile(r"\d{1,3}(?:,\d{3})+"), re.compile(r"\d+")
SIGN_COMMANDS = {"%": "%", "\u00b0": "degree"}
SIGNS = "+-*/^_=<>()[]{}|,;:!&'"
NUMBERS = ("number", "decimal", "scientific")
LETTER_PAIRS = ("mg", "gm", "ms", "Pa", "nm", "min")  # glued to a number they are letters: 2mg is a weight
SHORT_WORDS = ("is", "no", "yes", "to", "if", "mod", "not")


def tokenize(text: str) -> list[Token]:
    """The tokens of `text`. Runs of letters are words when they are a known unit after a value, or longer than three."""
    found: list[Token] = []
    position, spaced, depth = 0, False, 0
    while position < len(text):
        if len(found) > MAX_TOKENS:
            raise Unclear
        if match := SPACES.match(text, position):
            position, spaced = match.end(), True
        elif match := IGNORED.match(text, position) or STYLE.match(text, position):
            position = match.end()
        elif match := TEXT.match(text, position):
            end = notation.closing_brace(text, match.end())
            if end < 0:
                raise Unclear
            found += text_tokens(text[match.end() : end], spaced)
            position, spaced = end + 1, False
        elif match := LETTERS.match(text, position):
            found += letter_tokens(match.group(), spaced and "\\" not in text, found[-1] if found else None)
            position, spaced = match.end(), False
        else:
            token, position = next_token(text, position, spaced, depth > 0)
            found += [token] if token else []
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.text, 0) if token else 0
            spaced = False
    return found


def next_token(text: str, position: int, spaced: bool, bracketed: bool) -> tuple[Token | None, int]:
    """The number, command or sign at `position`, and where it ends. In brackets a comma separates: (1,200) are two."""
    if match := SCIENTIFIC.match(text, position):
        mantissa, exponent = match.groups()
        if abs(int(exponent)) > MAX_EXPONENT:
            raise Unclear
        return Token("scientific", f"{mantissa}e{exponent}", spaced), match.end()
    match = NUMBER.match(text, position)
    if match and bracketed and GROUPED.fullmatch(match.group()):
        match = DIGITS.match(text, position)
    if match:
        digits = re.sub(r"[^\d.]", "", match.group()).removesuffix(".")
        return Token("decimal" if "." in digits else "number", digits, spaced), match.end()
    if match := DOTS.match(text, position):
        return Token("command", "dots", spaced), match.end()
    if match := COMMAND.match(text, position):
        name = match.group(1)
        if name == "$":
            return Token("currency", name, spaced), match.end()
        return Token("sign", "|", spaced) if name == "mid" else Token(
            "command", SAME.get(name, name), spaced
        ), match.end()
    if text.startswith("**", position):
        return Token("sign", "^", spaced), position + 2
    character = text[position]
    if character in SIGNS:
        return Token("sign", character, spaced), position + 1
    if character in units.SIGNS:
        return Token("currency", character, spaced), position + 1
    if character in SIGN_COMMANDS:
        return Token("command", SIGN_COMMANDS[character], spaced), position + 1
    if character == "." and not text[position + 1 :].strip(". }"):
        return None, position + 1  # a final full stop
    raise Unclear


def text_tokens(content: str, spaced: bool) -> list[Token]:
    r"""The tokens of \text{...}: single letters are symbols, other letters words; the rest as in a formula."""
    said = SPACES.sub(" ", content).strip().strip("$")
    spaced = spaced or content[:1] in " ~"
    if (joint := joining(said.casefold())) is not None:
        return [joint]
    if re.fullmatch(r"[^\W\d_]", said):
        return [Token("roman", said, spaced)]
    if re.fullmatch(r"[A-Z]{2,5}", said) and said not in ("AM", "PM"):
        return [Token("symbol", letter, spaced) for letter in said]
    if said in FUNCTIONS:
        return [Token("command", said, spaced)]
    found: list[Token] = []
    for match in re.finditer(r"(\s*)([^\W\d_]+(?:[-'.][^\W\d_]+)*\.?)|(\s*)([^\s])", said):
        space, word, other_space, _ = match.groups()
        if word is not None:
            kind = "roman" if len(word) == 1 else "word"
            found.append(Token(kind, word, bool(space) or spaced))
        else:
            rest = tokenize(said[match.start(4) :])
            return [*found, *([replace(rest[0], spaced=bool(other_space) or spaced)] if rest else []), *rest[1:]]
        spaced = False
    return found


def joining(word: str) -> Token | None:
    """The token of a word that joins parts of an answer, or None."""
    if word in CONDITIONS:
        return Token("sign", ",")
    return Token("word", JOINS[word]) if word in JOINS else None


def letter_tokens(run: str, spaced: bool, before: Token | None) -> list[Token]:
    """A run of letters in a formula or in plain text: a name, a word, or variables side by side."""
    lower = run.casefold()
    if (joint := joining(lower)) is not None:
        return [joint]
    if len(run) == 1:
        after_number = spaced and before is not None and before.kind in NUMBERS
        return [Token("unit?" if after_number else "symbol", run, spaced)]
    if run in PLAIN:
        return [Token("command", PLAIN[run], spaced)]
    after_value = before is not None and (before.kind in (*NUMBERS, "word") or before.text in ")}/")
    if (
        after_value
        and spaced
        and len(run) <= units.SHORT
        and units.unit(run) is not None
        and before
        and before.kind in NUMBERS
    ):
        return [Token("unit?", run, spaced)]
    is_unit = after_value and (lower in ("am", "pm") or (units.unit(run) is not None and run not in LETTER_PAIRS))
    is_thing = after_value and spaced and len(run) == 3 and run.islower() and re.search("[aeiouy]", run)
    is_long = len(run) > 3 and not run.isupper()
    if is_unit or is_thing or is_long or not run.isascii() or lower in SHORT_WORDS:
        return [Token("word", run, spaced)]
    return [Token("symbol", letter, spaced and i == 0) for i, letter in enumerate(run)]
