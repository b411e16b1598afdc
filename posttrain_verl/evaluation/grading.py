"""From answers to graded items, and from items to the figures of an evaluation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import reward_fns
from posttrain_verl.evaluation import errors
from posttrain_verl.evaluation.answers import Answer
from posttrain_verl.evaluation.questions import Question
from posttrain_verl.evaluation.result import ERROR_KINDS, Item, Metric
from posttrain_verl.statistics import pass_at, share
from reward_fns.code.grader import grade_code
from reward_fns.math import numbers
from reward_fns.math.grader import grade_math

Grade = Mapping[str, float | str]


def graded(question: Question, stratum: str | None, answer: Answer) -> Item:
    """One answer with its grade, and why it is wrong if it is. Blocks on the verifier; may be called from threads."""
    grader, options = reward_fns.resolve(question.data_source)
    grade = _grade(question, answer.text)
    right = float(grade["acc"])
    flexible = right
    if grader is grade_math and options.get("mode") == "strict":
        flexible = float(_grade(question, answer.text, mode="flexible")["acc"])
    item = {
        "id": question.id, "sample": answer.sample, "data_source": question.data_source, "stratum": stratum,
        "question": question.text, "answer": answer.text, "gold": question.gold, "truncated": answer.truncated,
        "tokens": answer.tokens, **grade, "strict_acc": right * float(grade["format"]),
        "flexible_acc": max(right, flexible),
    }  # fmt: skip
    kind, evidence = errors.kind(item, grader is grade_code) or (None, "")
    return {**item, "error": kind, "evidence": evidence}  # type: ignore[typeddict-item]


def _grade(question: Question, text: str, **options: Any) -> Grade:
    """The grade. A gold answer that no grader can read is the verifier's failure, not the model's."""
    try:
        return reward_fns.grade(question.data_source, text, question.gold, question.facts, **options)
    except ValueError as error:
        return {**dict.fromkeys(reward_fns.KEYS, 0.0), "verifier_error": 1.0, "pred": f"{error}"[:200]}


def by_question(items: Iterable[Item]) -> dict[str, list[Item]]:
    """The samples of each question."""
    found: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        found[item["id"]].append(item)
    return dict(found)


def metrics(items: Sequence[Item], k: int) -> dict[str, Metric]:
    """Every figure of an evaluation with its interval; questions are what it is taken over.

    Raises:
        ValueError: there is no item.
    """
    groups = list(by_question(items).values())
    columns = {
        "accuracy": [[item["acc"] for item in group] for group in groups],
        "strict_accuracy": [[item["strict_acc"] for item in group] for group in groups],
        "flexible_accuracy": [[item["flexible_acc"] for item in group] for group in groups],
        "format": [[item["format"] for item in group] for group in groups],
        "truncated": [[float(item["truncated"]) for item in group] for group in groups],
        "unanswered": [[1.0 - item["answered"] for item in group] for group in groups],
        "verifier_error": [[item["verifier_error"] for item in group] for group in groups],
    }
    shares = {name: share([sum(values) / len(values) for values in column]) for name, column in columns.items()}
    if k > 1:
        right = [sum(item["acc"] == 1 for item in group) for group in groups]
        shares |= {f"pass@{j}": share([pass_at(count, k, j) for count in right]) for j in sizes(k)}
        if all(reward_fns.resolve(item["data_source"])[0] is grade_math for item in items):
            shares[f"maj@{k}"] = share([majority(group) for group in groups])
    return {name: Metric(value=s.value, low=s.low, high=s.high, n=s.n) for name, s in shares.items()}


def sizes(k: int) -> list[int]:
    """1, 2, 4 ... and k."""
    return [*(2**power for power in range(k.bit_length()) if 2**power < k), k]


def majority(group: Sequence[Item]) -> float:
    """Whether the answer given most often is right; the mean where several are given equally often, 0 without any answer."""
    votes: dict[object, list[float]] = defaultdict(list)
    for item in group:
        if item["answered"]:
            votes[_as_vote(item["pred"])].append(item["acc"])
    most = max(map(len, votes.values()), default=0)
    first = [verdicts for verdicts in votes.values() if len(verdicts) == most]
    return sum(sum(verdicts) / len(verdicts) for verdicts in first) / len(first) if first else 0.0


def _as_vote(pred: str) -> object:
    """18, 18.00 and $18 are one vote."""
    number = numbers.read(pred)
    return number.value * number.factor if number else "".join(pred.split()).lower()


def error_counts(items: Iterable[Item]) -> dict[str, int]:
    counted = Counter(item["error"] for item in items)
    return {kind: counted[kind] for kind in ERROR_KINDS}
