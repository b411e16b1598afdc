"""What a gold answer is, read once per prompt: number, choice letter, words, or a formula."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from reward_fns.math import numbers
from reward_fns.math.extract import final_answer
from reward_fns.math.symbols import latex

CHOICE = re.compile(r"\(?([A-J])\)?\.?")
WORDS = re.compile(r"[^\W\d_]{2,}(?:[\s'-]+[^\W\d_]+)*")
LEADING_ZERO = re.compile(r"-?0,\d{3,}")  # a decimal comma: neither a thousands group nor a likely list
TEXT_COMMAND = re.compile(r"\\(?:text|mbox|mathrm|textbf|textit|textrm|mathbf|boldsymbol|rm)\s*\{([^{}]*)\}")
UNIT = re.compile(r"(?<=\S)(?:\s|~|\\[ ,;])*\\(?:text|mbox|mathrm)\s*\{[^{}\d=]*\}(?:\^(?:[23]|\{[23]\}))?\s*\Z")
CHOSEN = re.compile(r"(?:^|[\s*(\[]|option\s|choice\s)([A-J])(?=[)\].:,*\s]|$)")
DELIMITED = re.compile(r"(?<!\\)\$|\\\(|\\\[|\\boxed|\\begin\{(?:align|equation)")


@dataclass(frozen=True)
class Gold:
    """`text` is the bare answer, `kind` one of number, choice, words, formula; `number` is set for numbers."""

    text: str
    kind: str
    number: numbers.Number | None = None


@lru_cache(maxsize=8192)
def read_gold(ground_truth: str) -> Gold:
    """Read a gold answer: bare, or a worked solution that ends in `####`, a box, or "A:"."""
    text = latex(ground_truth.strip())
    if "####" in text or r"\boxed" in text or "\nA:" in text:
        answer = final_answer(text)
        text = answer.text if len(answer.parts) == 1 else text
    number = numbers.read(text.replace(",", ".") if LEADING_ZERO.fullmatch(text) else text)
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
    if len(given.strip("()[].")) == 1:
        return given.strip("()[].").upper() == letter
    chosen = set(CHOSEN.findall(given))
    return chosen == {letter}


def same_words(gold: str, answer: str) -> bool:
    """Equal words, without regard to case, spacing, articles and LaTeX text commands."""
    return bare(gold) == bare(answer)


def bare(text: str) -> str:
    words = plain_words(text).casefold().replace("-", " ").split()
    return " ".join(word for word in words if word not in ("the", "a", "an"))


def without_unit(text: str) -> str:
    r"""`text` without a unit in words at its end, as in `5\pi \text{ cm}^2`."""
    return UNIT.sub("", text)


def as_formula(text: str) -> str:
    """`text` inside math delimiters, so that math-verify reads all of it as one formula."""
    return text if DELIMITED.search(text) else f"${text}$"
