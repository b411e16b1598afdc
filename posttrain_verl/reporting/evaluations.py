"""The evaluations of a run, and what two of the same questions say about each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from posttrain_verl import statistics
from posttrain_verl.reporting.files import Files, Record

ALPHA = 0.05
ERROR_KINDS = {
    "format": "a right answer that could not be read: no box, cut off, or none at all",
    "logic": "an answer, and a step on the way to it that is false",
    "knowledge": "a wrong answer without a step that can be shown to be false",
    "verifier": "the grader failed: no fault of the model",
}
SHOWN_METRICS = ("strict_accuracy", "flexible_accuracy", "truncated", "unanswered", "verifier_error")


@dataclass(frozen=True)
class Evaluation:
    """One file of docs/evaluate.md, and the file it came from."""

    path: Path
    data: Record = field(repr=False)

    @property
    def label(self) -> str:
        return str(self.data.get("label") or self.path.stem)

    @property
    def name(self) -> str:
        return str(self.data.get("eval", self.path.stem))

    @property
    def items(self) -> list[Record]:
        return [item for item in self.data.get("items", []) if isinstance(item, dict)]

    @property
    def noise(self) -> bool:
        return bool(self.data.get("noise"))

    def metric(self, name: str) -> Record | None:
        """`{value, low, high, n}` of one metric, each from 0 to 1."""
        found = self.data.get("metrics", {}).get(name)
        return found if isinstance(found, dict) and "value" in found else None

    @property
    def accuracy(self) -> Record | None:
        return self.metric("accuracy")

    def extras(self) -> list[tuple[str, Record]]:
        """The metrics beside accuracy: shares, and with several samples pass@k and maj@k."""
        names = [*SHOWN_METRICS, *(name for name in self.data.get("metrics", {}) if "@" in name)]
        return [(name.replace("_", " "), found) for name in names if (found := self.metric(name))]

    def errors(self) -> list[tuple[str, int]]:
        """How many wrong answers there are of each kind."""
        counted = self.data.get("errors") or {}
        return [(kind, int(counted.get(kind, 0))) for kind in ERROR_KINDS]

    def by_question(self) -> dict[str, float]:
        """The share of right answers to each question."""
        right: dict[str, list[float]] = defaultdict(list)
        for item in self.items:
            right[str(item.get("id"))].append(float(item.get("acc", 0)))
        return {key: float(np.mean(values)) for key, values in right.items()}


@dataclass(frozen=True)
class Comparison:
    """The second of two evaluations against the first, on the same `n` questions; `difference` is in shares of 1."""

    first: Evaluation
    second: Evaluation
    n: int
    difference: float
    low: float
    high: float
    p: float
    test: str
    gained: int
    lost: int

    @property
    def verdict(self) -> str:
        """`better` or `worse` where chance is a poor explanation, else `noise`."""
        if self.p >= ALPHA:
            return "noise"
        return "better" if self.difference > 0 else "worse"


def read(files: Files) -> list[Evaluation]:
    """The evaluations in the folder's `eval/`, oldest first."""
    paths = sorted((files.path / "eval").glob("*.json"), key=lambda path: (path.stat().st_mtime, path.name))
    found = [Evaluation(path, files.json(path.relative_to(files.path))) for path in paths]
    return [each for each in found if each.accuracy]


def compare(first: Evaluation, second: Evaluation) -> Comparison | None:
    """The paired comparison, or None if the two did not answer the same questions.

    One answer a question: exact McNemar. Several: a t-test on the differences of the questions, which are the clusters.
    The interval of the difference is the t interval over questions (statsmodels) in both cases.
    """
    before, after = first.by_question(), second.by_question()
    if len(before) < 2 or before.keys() != after.keys():
        return None
    change = np.array([after[key] - before[key] for key in before])
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    if not gained and not lost:
        return Comparison(first, second, len(before), 0.0, 0.0, 0.0, 1.0, "no question differs", 0, 0)
    facts = DescrStatsW(change)
    low, high = facts.tconfint_mean(alpha=ALPHA)
    if set(before.values()) | set(after.values()) <= {0.0, 1.0}:
        right = [{key: value == 1 for key, value in each.items()} for each in (before, after)]
        p, test = statistics.paired(*right).p, "exact McNemar"
    else:
        p, test = float(facts.ttest_mean(0)[1]), "t-test over questions"
    return Comparison(first, second, len(before), float(change.mean()), float(low), float(high), p, test, gained, lost)


def comparisons(own: Sequence[Evaluation], other: Sequence[Evaluation] = ()) -> list[Comparison]:
    """Each of `own` against that of `other` by the same name; without `other`, against the first of its name.

    The p of several comparisons are corrected for their number.
    """
    if other:
        pairs = [(base, each) for each in own for base in other if base.name == each.name]
    else:
        pairs = [(family[0], each) for family in _families(own) for each in family[1:]]
    return _corrected([found for base, each in pairs if (found := compare(base, each))])


def _corrected(found: list[Comparison]) -> list[Comparison]:
    """Several comparisons give chance several tries: Holm's correction (Holm 1979, by statsmodels)."""
    if len(found) < 2:
        return found
    adjusted = multipletests([each.p for each in found], alpha=ALPHA, method="holm")[1]
    return [replace(each, p=float(p), test=f"{each.test} (Holm)") for each, p in zip(found, adjusted, strict=True)]


def _families(evaluations: Iterable[Evaluation]) -> list[list[Evaluation]]:
    families: dict[str, list[Evaluation]] = defaultdict(list)
    for each in evaluations:
        families[each.name].append(each)
    return list(families.values())
