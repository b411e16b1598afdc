"""The evaluations of a run, and what two of the same questions say about each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from posttrain_verl.evaluation import comparison
from posttrain_verl.evaluation.comparison import Comparison
from posttrain_verl.evaluation.result import ERROR_KINDS, Item, Metric, Result
from posttrain_verl.evaluation.result import read as read_result
from posttrain_verl.problem import InputError
from posttrain_verl.reporting.files import Files

MEANINGS = {
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
    data: Result = field(repr=False)

    @property
    def label(self) -> str:
        return self.data["label"]

    @property
    def name(self) -> str:
        """The questions: gsm8k, math_500 ..."""
        return self.data["eval"]

    @property
    def items(self) -> list[Item]:
        return self.data["items"]

    @property
    def accuracy(self) -> Metric:
        return self.data["metrics"]["accuracy"]

    def named(self, label: str) -> Evaluation:
        """The same under another label, for a page on which several runs have one of this."""
        return Evaluation(self.path, {**self.data, "label": label})

    def extras(self) -> list[tuple[str, Metric]]:
        """The metrics beside accuracy: shares, and with several samples pass@k and maj@k."""
        metrics = self.data["metrics"]
        names = [*SHOWN_METRICS, *(name for name in metrics if "@" in name)]
        return [(name.replace("_", " "), metrics[name]) for name in names if name in metrics]

    def errors(self) -> list[tuple[str, int]]:
        """How many wrong answers there are of each kind."""
        return [(kind, self.data["errors"].get(kind, 0)) for kind in ERROR_KINDS]


def read(files: Files) -> list[Evaluation]:
    """The evaluations in the folder's `eval/`, in the order of training: base, SFT, then by the time they were written."""
    found = []
    for path in (files.path / "eval").glob("*.json"):
        try:
            data = read_result(path)
        except InputError as error:
            files.flaws += [problem.what for problem in error.problems]
            continue
        if missing := Result.__required_keys__ - data.keys():
            files.flaws.append(f"{path} lacks {', '.join(sorted(missing))}")
        elif "accuracy" in data["metrics"]:
            found.append(Evaluation(path, data))
    return sorted(found, key=_place)


def _place(evaluation: Evaluation) -> tuple[int, float, str]:
    first = comparison.FIRST
    rank = first.index(evaluation.label) if evaluation.label in first else len(first)
    return rank, evaluation.path.stat().st_mtime, evaluation.path.name


def compare(evaluations: Sequence[Evaluation], files: Files) -> list[Comparison]:
    """The paired comparisons of all that answered the same questions (`evaluation.comparison`): each against the first and
    against the one before it, the p-values corrected for their number. What cannot be compared is a flaw of the page."""
    named = {f"{each.label}@{each.name}#{number}": each.data for number, each in enumerate(evaluations)}
    try:
        return comparison.compare(named)
    except InputError as error:
        files.flaws += [f"not compared: {problem.what}" for problem in error.problems]
        return []


def headline(compared: Sequence[Comparison]) -> Comparison | None:
    """The comparison that the page is about: of the last model with the first."""
    return next((each for each in reversed(compared) if each.first == compared[0].first), None)
