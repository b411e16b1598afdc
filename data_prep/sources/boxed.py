"""What the sets share whose gold stands in `\\boxed{}` at the end of the worked solution."""

from __future__ import annotations

from data_prep.sources.source import BadRow
from reward_fns.math.extract import final_answer


def gold(solution: str) -> str:
    """The content of the last box. Raises BadRow without one."""
    answer = final_answer(solution, "strict").text
    if not answer:
        raise BadRow(f"solution has no boxed answer, but ends in {solution[-60:]!r}")
    return answer
