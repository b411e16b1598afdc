"""The reward of a rehearsal: the recipe's own, with a little of the answer's text where it gives nothing.

A random model earns no reward, so that no group has variance and nothing would train. The recipe's reward is called for each
answer as in the real run, and what it returns is kept but for a score of 0.
"""

from __future__ import annotations

import inspect
import zlib
from typing import Any

from posttrain_verl.verl.runtime import load_reward

SPREAD = 0.5  # less than a right answer earns


async def compute_score(rehearsed: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    """Call the reward that `rehearsed` names (`path`, `name`; no path is VeRL's own) and spread a score of 0."""
    given = load_reward(rehearsed.get("path"), rehearsed.get("name"))(**arguments)
    grade = await given if inspect.isawaitable(given) else given
    parts = dict(grade) if isinstance(grade, dict) else {"score": grade, "acc": grade}
    if parts["score"] == 0:
        parts["score"] = spread_score(arguments["solution_str"], str(arguments["ground_truth"]))
    return parts


def spread_score(answer: str, gold: str) -> float:
    """0 to SPREAD, another for each answer; 0 for all answers to one question in four, which a group filter then drops."""
    if zlib.crc32(gold.encode()) % 4 == 0:
        return 0.0
    return SPREAD * (zlib.crc32(answer.encode()) % 1000) / 1000
