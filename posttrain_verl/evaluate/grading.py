"""From answers to graded items, from items to the figures of an evaluation, and why a wrong answer is wrong.

The kind of error follows from rules that anyone can check. In order, for an answer that was graded wrong:

1. `verifier`: the verifier did not come to a verdict.
2. `format`: cut off before an answer was complete; no answer found; the right answer was given, but not where it was
   asked for, or was stated and then not given; for programs, no program, or one that does not compile.
3. `logic`: a step that a machine can check is false (the first such equation is the evidence), or a test failed.
4. `knowledge`: everything else, so also errors of reasoning that stand in no equation.

How often each kind is right on answers sorted by hand: docs/evaluate.md.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import reward_fns
from data_prep.filters import arithmetic
from posttrain_verl.evaluate.job import Question
from posttrain_verl.evaluate.result import ACCURACY, ERROR_KINDS, MEAN_REWARD, Answer, Item, Metric
from posttrain_verl.significance import Mean, Share, mean_interval, pass_at, share
from posttrain_verl.verl.verdicts import Verdicts
from reward_fns.code.grader import grade_code
from reward_fns.math import notation
from reward_fns.math.grader import grade_math
from reward_fns.own import OwnReward

Verdict = tuple[str, str]  # kind, evidence
NOT_COMPILING = re.compile(r"SyntaxError|IndentationError|TabError")
PLAIN_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def classify_error(item: Mapping[str, Any], is_code: bool) -> Verdict | None:
    """The kind of error of one item and what decided it; None for a right answer.

    `item` has the fields `answer`, `gold`, `truncated`, `flexible_acc` and the keys of a grade.
    """
    answer, gold, pred = item["answer"], item["gold"], item["pred"]
    cut_off = item["truncated"] and not item["format"]
    if item["acc"] == 1:
        return None
    if item["verifier_error"]:
        return "verifier", f"the verifier came to no verdict on {pred!r}"
    if is_code:
        if not item["answered"]:
            return "format", "no program was found"
        if cut_off:
            return "format", "cut off at the most tokens inside the program"
        if NOT_COMPILING.search(pred):
            return "format", f"the program does not compile: {pred}"
        return "logic", f"tests passed: {pred}"
    if not answer.strip():
        return "format", "the answer is empty"
    if cut_off:
        return "format", "cut off at the most tokens before a final answer"
    if item["flexible_acc"] == 1:
        return "format", f"the right answer {gold} stands where it was not asked for"
    if not item["answered"]:
        if "<think>" in answer and "</think>" not in answer:
            return "format", "the thought never ends: there is no answer after it"
        return "format", "no final answer was found"
    if stated := said_but_not_given(answer, gold, pred):
        return "format", stated
    if step := false_step(answer):
        return "logic", step
    return "knowledge", f"gave {pred!r} for {gold!r}; no step that can be checked is false"


def said_but_not_given(answer: str, gold: str, given: str) -> str | None:
    r"""The place where the answer states the gold as its result, although what was read as the answer is something else.

    That is a template that went wrong (`\boxed{x} = 18`, `#### 18 eggs and 9`), never a wrong result: the gold must be the
    last value of the last line, or stand beside others in what was read.
    """
    wanted = notation.read_number(gold)
    if wanted is None:
        return None
    lines = answer.strip().splitlines()
    found, last = PLAIN_NUMBER.findall(given), PLAIN_NUMBER.findall(lines[-1])
    among = any(_equals_number(value, wanted) for value in found)
    if among and len(found) > 1 and not re.search(r"\d\s*[-+*/^]\s*\d", given):
        return f"the right answer {gold} stands among others in {given!r}"
    if not among and last and _equals_number(last[-1], wanted):
        return f"the last line says {gold}, but {given!r} was given as the answer"
    return None


def _equals_number(value: str, wanted: notation.Number) -> bool:
    number = notation.read_number(value)
    return number is not None and notation.equal_numbers(wanted, number)


def false_step(answer: str) -> str | None:
    """The first false equation between numbers; None where no equation can be checked."""
    return arithmetic.find_false_step(re.sub(r"</?think>", "\n", answer))


def is_right(grade: Mapping[str, Any], right_at: float | None = None) -> float | None:
    """Whether a grade is that of a right answer, 0 to 1: its `acc`, else what the score says, by the rule of the report; None
    where neither says it, since a reward is not an accuracy."""
    if hasattr(acc := grade.get("acc"), "__float__"):
        return float(acc)  # type: ignore[arg-type]
    right = Verdicts(right_at=right_at).is_right({"score": float(grade["score"])})
    return None if right is None else float(right)


def grade_by_reward(
    reward: OwnReward, question: Question, stratum: str | None, answer: Answer, right_at: float | None = None
) -> Item:
    """One answer with what a reward of the user's own returns for it. Raises RewardError."""
    grade = reward.grade(question.data_source, answer.text, question.truth, question.facts)
    right = is_right(grade, right_at)
    item: dict[str, Any] = {
        **_item_facts(question, stratum, answer),
        **_plain_parts(grade),
        "error": None,
        "evidence": "",
    }
    item.pop("acc", None)
    if right is not None:
        kind, evidence = _error_under_reward(answer) if right < 1 else (None, "")
        item |= {"acc": right, "error": kind, "evidence": evidence or f"score {grade['score']:g}"}
    return item  # type: ignore[return-value]


def _plain_parts(grade: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a grade that JSON holds; numbers of numpy are numbers."""
    return {key: value if isinstance(value, str | None) else float(value) for key, value in grade.items()
            if isinstance(value, str | None) or hasattr(value, "__float__")}  # fmt: skip


def _error_under_reward(answer: Answer) -> Verdict:
    """The kind of error of a wrong answer whose grader says no more."""
    if not answer.text.strip():
        return "format", "the answer is empty"
    if answer.truncated:
        return "format", "cut off at the most tokens"
    if step := false_step(answer.text):
        return "logic", step
    return "knowledge", ""


def _item_facts(question: Question, stratum: str | None, answer: Answer) -> dict[str, Any]:
    return {"id": question.id, "sample": answer.sample, "data_source": question.data_source, "stratum": stratum,
            "question": question.text, "answer": answer.text, "gold": question.gold, "truncated": answer.truncated,
            "tokens": answer.tokens}  # fmt: skip


def grade_answer(question: Question, stratum: str | None, answer: Answer) -> Item:
    """One answer with its grade, and why it is wrong if it is. Blocks on the verifier; may be called from threads."""
    grader, options = reward_fns.resolve(question.data_source)
    grade = _grade_text(question, answer.text)
    right = float(grade["acc"])
    flexible = right
    if grader is grade_math and options.get("mode") == "strict":
        flexible = float(_grade_text(question, answer.text, mode="flexible")["acc"])
    item = {**_item_facts(question, stratum, answer), **grade, "strict_acc": right * float(grade["format"]),
            "flexible_acc": max(right, flexible)}  # fmt: skip
    kind, evidence = classify_error(item, grader is grade_code) or (None, "")
    return {**item, "error": kind, "evidence": evidence}  # type: ignore[typeddict-item]


def _grade_text(question: Question, text: str, **options: Any) -> Mapping[str, float | str]:
    """The grade. A gold answer that no grader can read is the verifier's failure, not the model's."""
    try:
        return reward_fns.grade(question.data_source, text, question.gold, question.facts, **options)
    except ValueError as error:
        return {**dict.fromkeys(reward_fns.KEYS, 0.0), "verifier_error": 1.0, "pred": f"{error}"[:200]}


def by_question(items: Iterable[Item]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        found[item["id"]].append(item)
    return dict(found)


def compute_metrics(items: Sequence[Item], k: int, by_reward: bool = False) -> dict[str, Metric]:
    """Every figure of an evaluation with its interval; questions are what it is taken over.

    With `by_reward` a reward of the user's own graded: its mean is a figure, and accuracy where every item has `acc`.

    Raises:
        ValueError: there is no item.
    """
    groups = list(by_question(items).values())
    if by_reward:
        return _metrics_of_reward(groups, k)
    figures: dict[str, Callable[[Item], float]] = {
        "accuracy": lambda item: item["acc"], "strict_accuracy": lambda item: item["strict_acc"],
        "flexible_accuracy": lambda item: item["flexible_acc"], "format": lambda item: item["format"],
        "truncated": lambda item: item["truncated"], "unanswered": lambda item: 1.0 - item["answered"],
        "verifier_error": lambda item: item["verifier_error"],
    }  # fmt: skip
    shares = {name: share(_means(groups, value)) for name, value in figures.items()}
    if k > 1:
        shares |= _pass_shares(groups, k)
        if all(reward_fns.resolve(item["data_source"])[0] is grade_math for item in items):
            shares[f"maj@{k}"] = share([majority_vote(group) for group in groups])
    return _as_metrics(shares)


def _metrics_of_reward(groups: list[list[Item]], k: int) -> dict[str, Metric]:
    found: dict[str, Share | Mean] = {MEAN_REWARD: mean_interval(_means(groups, lambda item: item["score"])),
             "truncated": share(_means(groups, lambda item: item["truncated"]))}  # fmt: skip
    if all("acc" in item for group in groups for item in group):
        found = {
            ACCURACY: share(_means(groups, lambda item: item["acc"])),
            **found,
            **(_pass_shares(groups, k) if k > 1 else {}),
        }
    return _as_metrics(found)


def _means(groups: Iterable[Sequence[Item]], value: Callable[[Item], float]) -> list[float]:
    return [sum(map(value, group)) / len(group) for group in groups]


def _pass_shares(groups: Iterable[Sequence[Item]], k: int) -> dict[str, Share]:
    right = [sum(item["acc"] == 1 for item in group) for group in groups]
    return {f"pass@{j}": share([pass_at(count, k, j) for count in right]) for j in pass_sizes(k)}


def _as_metrics(shares: Mapping[str, Share | Mean]) -> dict[str, Metric]:
    return {name: Metric(value=s.value, low=s.low, high=s.high, n=s.n) for name, s in shares.items()}


def pass_sizes(k: int) -> list[int]:
    """1, 2, 4 ... and k."""
    return [*(2**power for power in range(k.bit_length()) if 2**power < k), k]


def majority_vote(group: Sequence[Item]) -> float:
    """Whether the answer given most often is right; the mean where several are given equally often, 0 without any answer."""
    votes: dict[object, list[float]] = defaultdict(list)
    for item in group:
        if item["answered"]:
            number = notation.read_number(item["pred"])  # 18, 18.00 and $18 are one vote
            vote = number.value * number.factor if number else "".join(item["pred"].split()).lower()
            votes[vote].append(item["acc"])
    most = max(map(len, votes.values()), default=0)
    first = [verdicts for verdicts in votes.values() if len(verdicts) == most]
    return sum(sum(verdicts) / len(verdicts) for verdicts in first) / len(first) if first else 0.0


def error_counts(items: Iterable[Item]) -> dict[str, int]:
    counted = Counter(item["error"] for item in items)
    return {kind: counted[kind] for kind in ERROR_KINDS}
