"""Which answers of a run are right, as far as its rewards say so. A reward is a number, and only a verdict makes an accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from posttrain_verl.verl.metrics import HELD_OUT_ACCURACY
from posttrain_verl.verl.settings import RewardSettings

FLOAT32 = 1e-6  # VeRL keeps scores as such, so that 0.9 is 0.89999998 in its dumps


@dataclass(frozen=True)
class Verdicts:
    """What says that an answer is right.

    With `has_acc` the grades hold a verdict of their own, `acc`. Without one, an answer with a score of `right_at` or more is
    right. Without either nothing is known to be right or wrong.
    """

    has_acc: bool = False
    right_at: float | None = None

    def is_right(self, record: Mapping[str, Any]) -> bool | None:
        """Whether an answer is right, by its line in VeRL's dump (`score`, and the parts of its grade); None: not known."""
        acc, score = record.get("acc"), record.get("score")
        if self.has_acc and isinstance(acc, int | float):
            return acc >= 1
        if self.right_at is not None and isinstance(score, int | float):
            return score >= self.right_at or math.isclose(score, self.right_at, rel_tol=FLOAT32)
        return None


def read_verdicts(plan: Mapping[str, Any], reward: RewardSettings | None, measured: Iterable[str]) -> Verdicts:
    """The verdicts of a run with this plan.json, reward and names of metrics (as `metrics.with_held_out` gives them).

    `posttrain.reward.right_at` stands in the plan; one that an older version wrote lacks it.
    """
    declared: Any = plan
    for key in ("posttrain", "reward", "right_at"):
        declared = declared.get(key) if isinstance(declared, Mapping) else None
    if declared is None and reward is not None:
        declared = reward.right_at
    return Verdicts(any(key.startswith(HELD_OUT_ACCURACY) for key in measured), declared)
