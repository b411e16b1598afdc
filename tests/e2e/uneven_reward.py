"""A reward under which any two responses differ, so that a random model gets gradients: the mean byte of its text."""

from typing import Any


def compute_score(data_source: str, solution_str: str, ground_truth: str, **_: Any) -> dict[str, float]:
    text = solution_str.encode()
    return {"score": sum(text) / (256 * max(1, len(text)))}
