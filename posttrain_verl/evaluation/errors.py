r"""Why a wrong answer is wrong: format, logic, knowledge, or the verifier. By rules, so that anyone can check one.

In order, for an answer that was graded wrong:

1. `verifier`: the verifier did not come to a verdict.
2. `format`: cut off before an answer was complete; no answer found; the right answer was given, but not where it was
   asked for, or was stated and then not given; for programs, no program, or one that does not compile.
3. `logic`: a step that a machine can check is false (the first such equation is the evidence), or a test failed.
4. `knowledge`: everything else, so also errors of reasoning that stand in no equation.

How often each kind is right on answers sorted by hand: docs/evaluate.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from data_prep.filters import arithmetic
from reward_fns.math import numbers

Verdict = tuple[str, str]  # kind, evidence
NOT_COMPILING = re.compile(r"SyntaxError|IndentationError|TabError")
THOUGHT = re.compile(r"</?think>")


def kind(item: Mapping[str, Any], is_code: bool) -> Verdict | None:
    """The kind of error of one item and what decided it; None for a right answer.

    `item` has the fields `answer`, `gold`, `truncated`, `flexible_acc` and the keys of a grade.
    """
    if item["acc"] == 1:
        return None
    if item["verifier_error"]:
        return "verifier", f"the verifier came to no verdict on {item['pred']!r}"
    return _of_program(item) if is_code else _of_math(item)


def _of_math(item: Mapping[str, Any]) -> Verdict:
    answer = item["answer"]
    if not answer.strip():
        return "format", "the answer is empty"
    if item["truncated"] and not item["format"]:
        return "format", "cut off at the most tokens before a final answer"
    if item["flexible_acc"] == 1:
        return "format", f"the right answer {item['gold']} stands where it was not asked for"
    if not item["answered"]:
        return "format", _without_answer(answer)
    if said := said_but_not_given(answer, item["gold"], item["pred"]):
        return "format", said
    if step := false_step(answer):
        return "logic", step
    return "knowledge", f"gave {item['pred']!r} for {item['gold']!r}; no step that can be checked is false"


def _without_answer(answer: str) -> str:
    if "<think>" in answer and "</think>" not in answer:
        return "the thought never ends: there is no answer after it"
    return "no final answer was found"


def _of_program(item: Mapping[str, Any]) -> Verdict:
    if not item["answered"]:
        return "format", "no program was found"
    if item["truncated"] and not item["format"]:
        return "format", "cut off at the most tokens inside the program"
    if NOT_COMPILING.search(item["pred"]):
        return "format", f"the program does not compile: {item['pred']}"
    return "logic", f"tests passed: {item['pred']}"


def said_but_not_given(answer: str, gold: str, given: str) -> str | None:
    r"""The place where the answer states the gold as its result, although what was read as the answer is something else.

    That is a template that went wrong (`\boxed{x} = 18`, `#### 18 eggs and 9`), never a wrong result: the gold must be the
    last value of the last line, or stand beside others in what was read.
    """
    wanted = numbers.read(gold)
    if wanted is None:
        return None
    lines = [line for line in answer.strip().splitlines() if line.strip()]
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", given)
    if len(found) > 1 and not re.search(r"\d\s*[-+*/^]\s*\d", given) and any(_is(value, wanted) for value in found):
        return f"the right answer {gold} stands among others in {given!r}"
    last = re.findall(r"-?\d[\d,]*(?:\.\d+)?", lines[-1])
    if last and _is(last[-1], wanted) and not any(_is(value, wanted) for value in found):
        return f"the last line says {gold}, but {given!r} was given as the answer"
    return None


def _is(value: str, wanted: numbers.Number) -> bool:
    number = numbers.read(value)
    return number is not None and numbers.equal(wanted, number)


def false_step(answer: str) -> str | None:
    """The first false equation between numbers; None where no equation can be checked."""
    return arithmetic.flaw(THOUGHT.sub("\n", answer))
