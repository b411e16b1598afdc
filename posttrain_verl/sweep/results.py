"""What a member of a sweep measured last: its accuracy on the validation set, or else a loss or reward."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.metrics import MetricsTail

ACCURACY = "accuracy"
MEASURES = {ACCURACY: 1, "val/loss": -1, "critic/score/mean": 1, "train/loss": -1}  # the first found; 1: more is better


@dataclass(frozen=True)
class Result:
    """`value` of `measure` after `step`; `items` holds the accuracy on each question, where there was a validation."""

    measure: str
    value: float
    step: int
    items: dict[str, float] = field(default_factory=dict)

    @property
    def goodness(self) -> float:
        """The value, turned so that more is better."""
        return MEASURES[self.measure] * self.value


def read(folder: Path) -> Result | None:
    """The result of the run in `folder`, or None if it measured nothing."""
    return _validated(folder) or _logged(folder)


def _validated(folder: Path) -> Result | None:
    """From the rollouts of the last validation: VeRL writes one JSON line an answer to validation/<step>.jsonl."""
    files = sorted((file for file in folder.glob("validation/*.jsonl") if file.stem.isdigit()), key=_step)
    if not files:
        return None
    answers: dict[str, list[float]] = {}
    for line in files[-1].read_text().splitlines():
        answer = json.loads(line)
        answers.setdefault(str(answer["input"]), []).append(float(answer.get("acc", answer["score"]) >= 1.0))
    items = {question: fmean(verdicts) for question, verdicts in answers.items()}
    return Result(ACCURACY, fmean(items.values()), _step(files[-1]), items) if items else None


def _logged(folder: Path) -> Result | None:
    last: dict[str, tuple[float, int]] = {}
    for step, metrics in MetricsTail(RunFolder(folder).metrics).read():
        last |= {key: (float(metrics[key]), step) for key in MEASURES if key in metrics}
    return next((Result(key, *last[key]) for key in MEASURES if key in last), None)


def _step(file: Path) -> int:
    return int(file.stem)
