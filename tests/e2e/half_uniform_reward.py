"""A reward under which questions with an even answer give the same to every response, and the others a different one to each."""

from typing import Any


def compute_score(data_source: str, solution_str: str, ground_truth: str, **_: Any) -> dict[str, float]:
    text = solution_str.encode()
    spread = sum(text) / (256 * max(1, len(text)))
    score = 0.0 if int(ground_truth) % 2 == 0 else spread
    return {"score": score, "acc": score}
