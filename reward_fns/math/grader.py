"""Grade a completion against a mathematical gold answer: extraction, the exact path, then math-verify."""

from __future__ import annotations

import re
import threading
from dataclasses import replace

from reward_fns.grades import Grade
from reward_fns.math import expressions, numbers
from reward_fns.math.extract import Answer, content, final_answer, values
from reward_fns.math.gold import DELIMITED, Gold, as_formula, read_gold, same_choice, same_words, without_unit
from reward_fns.math.symbols import latex
from reward_fns.math.verifier import Pool, VerifierError

LIMIT_SECONDS = 3.0
MAX_NESTING = 40  # brackets in one another; math-verify's parser recurses
BRACKET = re.compile(r"[()\[\]{}]")
MAX_ANSWER = 2000  # characters; a longer final answer is not compared
NAME = re.compile(r"\s*\$?\s*[A-Za-z]\s*=\s*|\(?[A-J][).:]\s+")
ASSIGNED = re.compile(r"\A\s*[A-Za-z](?:_\{?\w\}?)?\s*=\s*")
OPERATION = re.compile(r"\d\s*(?:[-+*^\u00d7\u00f7]|\\(?:cdot|times|div))\s*\d|\^|!")
DECIMAL_COMMA = re.compile(r"-?(?:0,\d+|\d+,\d{1,2})")

_pool: Pool | None = None
_pool_lock = threading.Lock()


def pool() -> Pool:
    """The process-wide pool, made at the first symbolic comparison."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = Pool()
        return _pool


def close() -> None:
    """End the worker processes. The next call starts them again."""
    global _pool
    with _pool_lock:
        if _pool is not None:
            _pool.close()
            _pool = None


def forget() -> None:
    """Drop the pool without ending it: it belongs to the process that forked this one."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


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
    one: the task is to work it out, so that 47+85 is no answer to it. `limit` is the most seconds that one symbolic
    comparison may take. Raises ValueError for an empty gold, which would be no task."""
    gold = read_gold(str(ground_truth))
    if not gold.text:
        raise ValueError("the gold answer is empty: drop the row when the data is prepared")
    answer = final_answer(solution_str, mode)
    if not answer.where:
        return Grade(why="no final answer")
    found = Grade(format=float(answer.strict), answered=1.0, pred=answer.text)
    if len(answer.text) > MAX_ANSWER or nesting(answer.text) > MAX_NESTING:
        return replace(found, why=f"the answer is longer than {MAX_ANSWER} characters or deeper than {MAX_NESTING}")
    try:
        right = float(same(answer, gold, limit, evaluated))
    except VerifierError as error:
        return replace(found, verifier_error=1.0, why=str(error))
    return replace(found, score=right, acc=right)


def nesting(text: str) -> int:
    """How deep brackets of any kind lie in one another."""
    deepest = depth = 0
    for bracket in BRACKET.finditer(text):
        depth += 1 if bracket.group() in "([{" else -1
        deepest = max(deepest, depth)
    return deepest


def same(answer: Answer, gold: Gold, limit: float, evaluated: bool) -> bool:
    """Whether the answer equals the gold. Raises VerifierError when that could not be decided."""
    parts = unequal(tuple(map(latex, answer.parts)))
    if len(parts) > 1:
        return gold.kind == "formula" and symbolic(gold, " and ".join(f"${part}$" for part in parts), limit)
    text = parts[0]
    if gold.number is not None and (given := read_answer(text, gold.number)) is not None:
        return numbers.equal(gold.number, given)
    if gold.number is not None and evaluated:
        return stated(text, gold.number)
    if gold.kind == "choice" and same_choice(gold.text, text):
        return True
    if text == gold.text or (gold.kind == "words" and same_words(gold.text, text)):
        return True
    gold, text = replace(gold, text=without_unit(gold.text)), without_unit(unnamed(text, gold.text))
    if gold.kind in ("formula", "number") and (verdict := expressions.equal(gold.text, text)) is not None:
        return verdict
    boxed = answer.where == "boxed" and DELIMITED.search(text)
    return symbolic(gold, rf"\boxed{{{text}}}" if boxed else as_formula(text), limit)


def unnamed(text: str, gold: str) -> str:
    """An answer `x = ...` without the name, for a gold that has none."""
    return text if "=" in gold or text.count("=") != 1 else ASSIGNED.sub("", numbers.unwrap(text), count=1)


def unequal(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The parts without those that repeat the value of an earlier one (18 and 18.00)."""
    kept: list[tuple[str, numbers.Number | None]] = []
    for part in parts:
        number = numbers.read(part)
        if not any(number and other and numbers.equal(number, other) for _, other in kept):
            kept.append((part, number))
    return tuple(part for part, _ in kept)


def read_answer(text: str, gold: numbers.Number) -> numbers.Number | None:
    """The number an answer is, also as `x = 5`, and as 2,74 where the gold is a decimal."""
    text = NAME.sub("", text, count=1)
    if not gold.exact and DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    return numbers.read(text)


def stated(text: str, gold: numbers.Number) -> bool:
    """Whether the one number that an answer states, after its last equals sign, is the gold."""
    said = numbers.plain(text.rsplit("=", 1)[-1])
    found = [numbers.read(content(match)) for match in values(said)]
    return OPERATION.search(said) is None and len(found) == 1 and found[0] is not None and numbers.equal(gold, found[0])


def symbolic(gold: Gold, answer: str, limit: float) -> bool:
    golds = [as_formula(gold.text)]
    if DECIMAL_COMMA.fullmatch(gold.text):
        golds.append(gold.text)
    return bool(pool().judge({"golds": golds, "answer": answer}, limit)["equal"])


def math_verify_alone(solution_str: str, ground_truth: object, limit: float = LIMIT_SECONDS) -> bool:
    """The verdict of math-verify on the whole response, its own extraction included, for comparison.

    Raises VerifierError when it does not end within `limit` seconds."""
    gold = as_formula(read_gold(str(ground_truth)).text)
    return bool(pool().judge({"golds": [gold], "answer": solution_str}, limit)["equal"])
