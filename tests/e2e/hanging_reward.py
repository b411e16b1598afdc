"""A reward that answers for the first step and then hangs, as one that waits for a service does."""

import time
from typing import Any

FIRST_STEP = 16  # rollouts
_calls = 0


def compute_score(data_source: str, solution_str: str, ground_truth: str, **_: Any) -> dict[str, float]:
    global _calls
    _calls += 1
    if _calls > FIRST_STEP:
        time.sleep(3600)
    text = solution_str.encode()
    return {"score": sum(text) / (256 * max(1, len(text)))}
