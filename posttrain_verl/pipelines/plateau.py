"""When SFT has given what it can: the rule that ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Plateau:
    """SFT ends when the last `patience` values of `metric` have not bettered the best before them by more than the share
    `min_gain` of that best: early stopping with patience (Prechelt 1998, "Early stopping - but when?", criterion UP with a
    floor on the gain). For a metric that falls, such as val/loss.

    Raises:
        ValueError: patience below 1, or a negative gain.
    """

    metric: str = "val/loss"
    patience: int = 2
    min_gain: float = 0.01

    def __post_init__(self) -> None:
        if self.patience < 1 or self.min_gain < 0:
            raise ValueError(f"patience={self.patience} must be 1 or more, and min_gain={self.min_gain} 0 or more")

    def reached(self, values: Sequence[float]) -> bool:
        """Whether the curve so far is on its plateau; `values` are those of every validation, oldest first."""
        if len(values) <= self.patience:
            return False
        before, last = min(values[: -self.patience]), min(values[-self.patience :])
        return not last < before - abs(before) * self.min_gain
