"""Grade a completion against a mathematical gold answer: read the gold, extract the answer, compare.

A gold is read once per prompt: it is a number, a choice, words, or a formula. What the product's own reader does not
understand is compared as text, or by math-verify where both sides have the same names and signs: it ignores what it
cannot read.
"""

import math
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache

from reward_fns.grades import Grade
from reward_fns.math import choices, equality, formula, notation, tokens, units
from reward_fns.math.extract import VALUE, Answer, final_answer, matched_text
from reward_fns.math.notation import signs_to_latex
from reward_fns.math.verifier import Pool, VerifierError
from reward_fns.pools import shared_pool

WORDS = re.compile(r"[^\W\d_]{2,}(?:[\s'.-]+[^\W\d_]+)*")
LEADING_ZERO = re.compile(r"-?0,\d{3,}")  # a decimal comma: neither a thousands group nor a likely list
TEXT_COMMAND = re.compile(
    r"\\(?:text|mbox|mathrm|textbf|textit|textrm|mathbf|boldsymbol|bm|rm|boxed|fbox|textcolor\{\w+\}|color\{\w+\})\s*\{([^{}]*)\}"
)
DELIMITED = re.compile(r"(?<!\\)\$|\\\(|\\\[|\\boxed|\\begin\{(?:align|equation)")


@dataclass(frozen=True)
class Gold:
    """`text` is the bare answer, `kind` one of number, choice, words, formula; `number` is set for numbers, `letters` for
    choices."""

    text: str
    kind: str
    number: notation.Number | None = None
    letters: str = ""


@lru_cache(maxsize=8192)
def read_gold(ground_truth: str) -> Gold:
    """Read a gold answer: bare, or a worked solution that ends in `####`, a box, or "A:"."""
    text = signs_to_latex(ground_truth.strip())
    if "####" in text or r"\boxed" in text or "\nA:" in text:
        answer = final_answer(text)
        text = answer.text if len(answer.parts) == 1 else text
    number = notation.read_number(text.replace(",", ".") if LEADING_ZERO.fullmatch(text) else text)
    if number is not None:
        return Gold(text, "number", number)
    plain = plain_words(text)
    if letters := choices.gold_letters(plain) or choices.labelled(plain)[0]:
        return Gold(text, "choice", letters=letters)
    return Gold(text, "words" if WORDS.fullmatch(plain) else "formula")


def plain_words(text: str) -> str:
    """`text` without LaTeX text commands, dollars, emphasis and final punctuation."""
    while (inner := TEXT_COMMAND.sub(r"\1", text)) != text:
        text = inner
    return re.sub(r"\\[,;:! ]|~", " ", text).strip(" \n$*.\"'`,;:").strip()


HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")


def bare_words(text: str) -> str:
    """`text` without case, articles and LaTeX text commands, and with single spaces."""
    words = HYPHEN.sub(" ", plain_words(text).casefold()).split()
    return " ".join(word for word in words if word not in ("the", "a", "an"))


def as_formula(text: str) -> str:
    """`text` inside math delimiters, so that math-verify reads all of it as one formula."""
    return text if DELIMITED.search(text) else f"${text}$"


LIMIT_SECONDS = 3.0
MAX_NESTING = 40  # brackets in one another; math-verify's parser recurses
BRACKET = re.compile(r"[()\[\]{}]")
MAX_ANSWER = 2000  # characters; a longer final answer is not compared
NAME = re.compile(r"\s*\$?\s*[A-Za-z]\s*=\s*|\(?[A-J][).:]\s+")
CONDITION = re.compile(
    r"\A\s*(?:\\text\s*\{)?\s*(?:at|when|if|for|where)\b[^,]*,\s*(?:[A-Za-z]\s*=\s*)?(?=\S)", re.IGNORECASE
)
LABEL = re.compile(
    r"\A\s*\\text\s*\{\s*(?:the|our)\s+((?:[a-z]+\s+)?[a-z]+)\s+(?:is|equals)\s*\}(?=\s*\S)", re.IGNORECASE
)
OPERATION = re.compile(r"\d\s*(?:[-+*^\u00d7\u00f7]|\\(?:cdot|times|div))\s*\d|\^|!")
DECIMAL_COMMA = re.compile(r"-?(?:0,\d+|\d+,\d{1,2})")


def verifier_pool() -> Pool:
    """The process-wide pool, made at the first symbolic comparison."""
    return shared_pool("math", Pool)


def grade_math(
    solution_str: str,
    ground_truth: object,
    extra_info: dict[str, object] | None = None,
    *,
    mode: str = "flexible",
    evaluated: bool = False,
    timeout: float = LIMIT_SECONDS,
) -> Grade:
    """Compare the final answer of a completion with the gold.

    `mode` is "strict" (only a box or #### is an answer) or "flexible". `evaluated` asks for a number where the gold is
    one: the task is to work it out, so that 47+85 is not an answer to it. `timeout` is the most seconds that one symbolic
    comparison may take. Raises ValueError for an empty gold, which would not be a task."""
    gold = read_gold(str(ground_truth))
    if not gold.text:
        raise ValueError("the gold answer is empty: drop the row when the data is prepared")
    answer = final_answer(solution_str, mode)
    if not answer.where:
        return Grade(why="no final answer")
    found = Grade(format=float(answer.strict), answered=1.0, pred=answer.text)
    if len(answer.text) > MAX_ANSWER or nesting_depth(answer.text) > MAX_NESTING:
        return replace(found, why=f"the answer is longer than {MAX_ANSWER} characters or deeper than {MAX_NESTING}")
    try:
        right = float(same_answer(answer, gold, timeout, evaluated))
    except VerifierError as error:
        return replace(found, verifier_error=1.0, why=str(error))
    return replace(found, score=right, acc=right)


def is_plain(gold: object) -> bool:
    """Whether a gold is one text or number, with which answers are compared."""
    return isinstance(gold, str | int | Decimal) or (isinstance(gold, float) and math.isfinite(gold))


def nesting_depth(text: str) -> int:
    """How deep brackets of any kind lie in one another."""
    deepest = depth = 0
    for bracket in BRACKET.finditer(text):
        depth += 1 if bracket.group() in "([{" else -1
        deepest = max(deepest, depth)
    return deepest


def same_answer(answer: Answer, gold: Gold, limit: float, evaluated: bool) -> bool:
    """Whether the answer equals the gold. Raises VerifierError when that could not be decided."""
    parts = distinct_values(tuple(map(signs_to_latex, answer.parts)))
    text = " , ".join(parts)
    if gold.number is not None and len(parts) == 1:
        value = without_preamble(NAME.sub("", text, count=1))  # also as `x = 5`, or "at t = 0, 5"
        decimal = not gold.number.exact and DECIMAL_COMMA.fullmatch(value)  # 2,74 where the gold is a decimal
        if (given := notation.read_number(value.replace(",", ".") if decimal else value)) is not None:
            return notation.equal_numbers(gold.number, given)
        if evaluated:
            return states_number(text, gold.number)
    if text == gold.text or (gold.kind == "words" and same_words(gold.text, text)):
        return True
    if DATE.fullmatch(gold.text.strip("$ ")) or DATE.fullmatch(text.strip("$ ")):
        return plain_words(gold.text) == plain_words(text)
    if gold.letters:
        return same_choice(gold, text)
    verdict = equal_formulas(gold.text, text)
    return compared_as_text(gold.text, text, limit) if verdict is None else verdict


def without_preamble(answer: str) -> str:
    r"""An answer without what may stand before it: a condition ("At t = 0,"), or a label (\text{The area is })."""
    label = LABEL.match(answer)
    if label and units.is_label(label.group(1)):
        return answer[label.end() :]
    return CONDITION.sub("", answer, count=1)


DATE = re.compile(r"\d+-\d+(?:-\d+)?|\d+/\d+/\d+")  # dates and scores, which are no differences
STANCE = re.compile(r"(yes|no|true|false)\b[,.;:]", re.IGNORECASE)  # an answer that gives its reason, too


def same_words(gold: str, answer: str) -> bool:
    """Whether two answers in words are the same. A short one keeps its case: Co is not CO."""
    ours, theirs = plain_words(gold), plain_words(answer)
    if stance := STANCE.match(theirs):
        theirs = stance.group(1)
    if len(ours) <= SYMBOL_LETTERS and ours.casefold() == theirs.casefold() and not ours.isalpha():
        return ours == theirs
    is_symbol = len(ours) <= SYMBOL_LETTERS and not (ours.islower() or theirs.islower())
    return ours == theirs if is_symbol else bare_words(ours) == bare_words(theirs)


SYMBOL_LETTERS = 2


def same_choice(gold: Gold, text: str) -> bool:
    """Whether an answer is the gold's choice: its letters, or the text that stands beside the gold's letter."""
    plain = plain_words(text)
    if choices.same_letters(gold.letters, plain):
        return True
    letter, said = choices.labelled(plain_words(gold.text))
    other, given = choices.labelled(plain)
    return bool(letter) and not other and (bare_words(said) == bare_words(given) or bool(equal_formulas(said, given)))


def equal_formulas(gold: str, answer: str) -> bool | None:
    """The verdict by value and structure; None where one of the two is not wholly understood."""
    verdicts: list[bool | None] = []
    for ours in formula.read(gold):
        for theirs in formula.read(without_preamble(answer)):
            try:
                verdicts.append(equality.equal(ours, theirs))
            except (tokens.Unclear, ArithmeticError):  # or too large for floating point
                verdicts.append(None)
    return True if True in verdicts else None if None in verdicts or not verdicts else False


def compared_as_text(gold: str, answer: str, limit: float) -> bool:
    """The same text but for spacing and style. Or sums, integrals and limits that are equal by math-verify, where it cannot
    have ignored a difference: it skips what it cannot read, and takes two equations for equal that it cannot solve."""
    ours, theirs = written(gold), written(answer)
    if ours.tokens == theirs.tokens or bare_words(gold) == bare_words(answer):
        return True
    if (
        not (ours.symbolic or theirs.symbolic)
        or ours.unread
        or theirs.unread
        or ours.names - ours.bound != theirs.names - theirs.bound
    ):
        return False
    return verify_symbolic(gold, as_formula(answer), limit)


@dataclass(frozen=True)
class Written:
    """An answer as tokens. `symbolic`: it has a sum, an integral or a limit; `bound`: the variables of those; `unread`: it
    has what math-verify may ignore (words, relations, structure); `names`: its other letters and commands; `has_words`: it
    is, at least in part, in words."""

    tokens: tuple[str, ...]
    has_words: bool = False
    symbolic: bool = False
    bound: frozenset[str] = frozenset()
    unread: bool = True
    names: frozenset[str] = frozenset()

    @property
    def is_text(self) -> bool:
        """Whether it can be compared as text, or by math-verify, without being understood."""
        return self.has_words or (self.symbolic and not self.unread)


SYMBOLIC = frozenset(["sum", "prod", "int", "lim"])
LAYOUT = SYMBOLIC | frozenset(
    ["frac", "sqrt", "cdot", "times", "*", "ast", "div", "infty", "pi", "{", "}", "to", "rightarrow"]
)
BOUND = re.compile(
    r"\\(?:sum|prod)\s*_\s*\{\s*([A-Za-z])\s*=|\\lim\s*_\s*\{\s*([A-Za-z])\s*\\(?:to|rightarrow)|(?<![A-Za-z\\])d\s*([A-Za-z])(?![A-Za-z])"
)
OPERATORS = re.compile(r"\\(?:sum|prod|lim)\s*_\s*\{[^{}]*\}")


@lru_cache(maxsize=8192)
def written(text: str) -> Written:
    bare = notation.bare(text)
    try:
        found = tokens.tokenize(bare)
        outside = tokens.tokenize(OPERATORS.sub("", bare))
    except tokens.Unclear:
        return Written(("".join(bare.split()),), has_words=bool(re.search(r"[^\W\d_]{4}", bare)))
    while len(found) > 2 and (found[0].text, found[-1].text) == ("{", "}") and not closes_early(found):
        found = found[1:-1]
    said = tuple(token.text.casefold() if token.kind == "word" else token.text for token in found)
    unread = any(t.kind in ("word", "unit?") or t.text in tokens.RELATIONS or t.text in UNREAD for t in outside)
    names = frozenset(
        t.text for t in found if t.kind in ("symbol", "roman") or (t.kind == "command" and t.text not in LAYOUT)
    )
    bound = frozenset(letter for match in BOUND.finditer(bare) for letter in match.groups() if letter) | {"d"}
    has_words = any(token.kind == "word" for token in found)
    return Written(said, has_words, not SYMBOLIC.isdisjoint(said), bound, unread, names)


UNREAD = frozenset(["|", "_", ";", ":", ",", "&", "'", "dots", "mathbb", "%", "pm", "mp"])


def closes_early(found: list[tokens.Token]) -> bool:
    """Whether the brace that opens first is closed before the end."""
    depth = 0
    for token in found[:-1]:
        depth += {"{": 1, "}": -1}.get(token.text, 0)
        if depth == 0:
            return True
    return False


def distinct_values(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The parts without those that repeat the value of an earlier one (18 and 18.00)."""
    if len(parts) == 1:
        return parts
    kept: list[tuple[str, notation.Number | None]] = []
    for part in parts:
        number = notation.read_number(part)
        if not any(number and other and notation.equal_numbers(number, other) for _, other in kept):
            kept.append((part, number))
    return tuple(part for part, _ in kept)


def states_number(text: str, gold: notation.Number) -> bool:
    """Whether the one number that an answer states, after its last equals sign, is the gold."""
    said = notation.plain_number(text.rsplit("=", 1)[-1])
    found = list(VALUE.finditer(said))
    if OPERATION.search(said) or len(found) != 1:
        return False
    number = notation.read_number(matched_text(found[0]))
    return number is not None and notation.equal_numbers(gold, number)


def verify_symbolic(gold: str, answer: str, limit: float) -> bool:
    return bool(verifier_pool().judge({"golds": [as_formula(gold)], "answer": answer}, limit)["equal"])


def math_verify_alone(solution_str: str, ground_truth: object, limit: float = LIMIT_SECONDS) -> bool:
    """The verdict of math-verify on the whole response, its own extraction included, for comparison.

    Raises VerifierError when it does not end within `limit` seconds."""
    gold = as_formula(read_gold(str(ground_truth)).text)
    return bool(verifier_pool().judge({"golds": [gold], "answer": solution_str}, limit)["equal"])
