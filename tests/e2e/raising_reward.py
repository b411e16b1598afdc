"""A reward that fails, as a user's own may."""

from typing import Any


def compute_score(data_source: str, solution_str: str, ground_truth: str, **_: Any) -> dict[str, float]:
    raise ValueError("this grader cannot grade")
