"""Grade a completion against a mathematical gold answer: read the gold, extract the answer, compare exactly, then by math-verify.

A gold is read once per prompt: it is a number, a choice letter, words, or a formula.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from reward_fns.grades import Grade
from reward_fns.math import expressions, notation
from reward_fns.math.extract import VALUE, Answer, final_answer, matched_text
from reward_fns.math.notation import signs_to_latex
from reward_fns.math.verifier import Pool, VerifierError
from reward_fns.pools import shared_pool

CHOICE = re.compile(r"\(?([A-J])\)?\.?")
WORDS = re.compile(r"[^\W\d_]{2,}(?:[\s'-]+[^\W\d_]+)*")
LEADING_ZERO = re.compile(r"-?0,\d{3,}")  # a decimal comma: neither a thousands group nor a likely list
TEXT_COMMAND = re.compile(r"\\(?:text|mbox|mathrm|textbf|textit|textrm|mathbf|boldsymbol|rm)\s*\{([^{}]*)\}")
# A unit in words at the end of a text, as in `5\pi \text{ cm}^2`.
UNIT = re.compile(r"(?<=\S)(?:\s|~|\\[ ,;])*\\(?:text|mbox|mathrm)\s*\{[^{}\d=]*\}(?:\^(?:[23]|\{[23]\}))?\s*\Z")
CHOSEN = re.compile(r"(?:^|[\s*(\[]|option\s|choice\s)([A-J])(?=[)\].:,*\s]|$)")
DELIMITED = re.compile(r"(?<!\\)\$|\\\(|\\\[|\\boxed|\\begin\{(?:align|equation)")


@dataclass(frozen=True)
class Gold:
    """`text` is the bare answer, `kind` one of number, choice, words, formula; `number` is set for numbers."""

    text: str
    kind: str
    number: notation.Number | None = None


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
    if CHOICE.fullmatch(plain_words(text)):
        return Gold(text, "choice")
    return Gold(text, "words" if WORDS.fullmatch(plain_words(text)) else "formula")


def plain_words(text: str) -> str:
    """`text` without LaTeX text commands, dollars, emphasis and final punctuation."""
    return TEXT_COMMAND.sub(r"\1", text).strip(" \n$*.\"'`,;:!").strip()


def same_choice(gold: str, answer: str) -> bool:
    """Whether an answer names the gold letter: "C", "(C)", "C) 42", "option C". A bare letter in either case."""
    given, letter = plain_words(answer), plain_words(gold).strip("().")
    if len(bare := given.strip("()[].")) == 1:
        return bare.upper() == letter
    return set(CHOSEN.findall(given)) == {letter}


def bare_words(text: str) -> str:
    """`text` without case, articles and LaTeX text commands, and with single spaces."""
    words = plain_words(text).casefold().replace("-", " ").split()
    return " ".join(word for word in words if word not in ("the", "a", "an"))


def as_formula(text: str) -> str:
    """`text` inside math delimiters, so that math-verify reads all of it as one formula."""
    return text if DELIMITED.search(text) else f"${text}$"


LIMIT_SECONDS = 3.0
MAX_NESTING = 40  # brackets in one another; math-verify's parser recurses
BRACKET = re.compile(r"[()\[\]{}]")
MAX_ANSWER = 2000  # characters; a longer final answer is not compared
NAME = re.compile(r"\s*\$?\s*[A-Za-z]\s*=\s*|\(?[A-J][).:]\s+")
ASSIGNED = re.compile(r"\A\s*[A-Za-z](?:_\{?\w\}?)?\s*=\s*")
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
    limit: float = LIMIT_SECONDS,
) -> Grade:
    """Compare the final answer of a completion with the gold.

    `mode` is "strict" (only a box or #### is an answer) or "flexible". `evaluated` asks for a number where the gold is
    one: the task is to work it out, so that 47+85 is not an answer to it. `limit` is the most seconds that one symbolic
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
        right = float(same_answer(answer, gold, limit, evaluated))
    except VerifierError as error:
        return replace(found, verifier_error=1.0, why=str(error))
    return replace(found, score=right, acc=right)


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
    if len(parts) > 1:
        return gold.kind == "formula" and verify_symbolic(gold, " and ".join(f"${part}$" for part in parts), limit)
    text = parts[0]
    if gold.number is not None:
        value = NAME.sub("", text, count=1)  # also as `x = 5`
        decimal = not gold.number.exact and DECIMAL_COMMA.fullmatch(value)  # 2,74 where the gold is a decimal
        if (given := notation.read_number(value.replace(",", ".") if decimal else value)) is not None:
            return notation.equal_numbers(gold.number, given)
        if evaluated:
            return states_number(text, gold.number)
    if gold.kind == "choice" and same_choice(gold.text, text):
        return True
    if text == gold.text or (gold.kind == "words" and bare_words(gold.text) == bare_words(text)):
        return True
    if "=" not in gold.text and text.count("=") == 1:  # an answer `x = ...`, for a gold that has no name
        text = ASSIGNED.sub("", notation.strip_wrappers(text), count=1)
    gold, text = replace(gold, text=UNIT.sub("", gold.text)), UNIT.sub("", text)
    if gold.kind in ("formula", "number") and (verdict := expressions.equal_formulas(gold.text, text)) is not None:
        return verdict
    boxed = answer.where == "boxed" and DELIMITED.search(text)
    return verify_symbolic(gold, rf"\boxed{{{text}}}" if boxed else as_formula(text), limit)


def distinct_values(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The parts without those that repeat the value of an earlier one (18 and 18.00)."""
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


def verify_symbolic(gold: Gold, answer: str, limit: float) -> bool:
    golds = [as_formula(gold.text), *([gold.text] if DECIMAL_COMMA.fullmatch(gold.text) else [])]
    return bool(verifier_pool().judge({"golds": golds, "answer": answer}, limit)["equal"])


def math_verify_alone(solution_str: str, ground_truth: object, limit: float = LIMIT_SECONDS) -> bool:
    """The verdict of math-verify on the whole response, its own extraction included, for comparison.

    Raises VerifierError when it does not end within `limit` seconds."""
    gold = as_formula(read_gold(str(ground_truth)).text)
    return bool(verifier_pool().judge({"golds": [gold], "answer": solution_str}, limit)["equal"])
