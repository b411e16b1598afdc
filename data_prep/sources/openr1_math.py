"""OpenR1-Math-220k: problems with long reasoning of DeepSeek-R1, verified (Apache-2.0)::

    {"problem": "## Task B-1.3. A ship traveling along a river ...", "solution": "...", "answer": "v_{R}=4",
     "problem_type": "Algebra", "source": "olympiads", "uuid": "586fd646-...", "is_reasoning_complete": [true, true],
     "generations": ["<think>\\nOkay, so I need ..."], "correctness_math_verify": [true, false], ...}

The first generation that is complete and verified is the solution. A problem without one serves RL only.
"""

from __future__ import annotations

from data_prep.sources.hub import hub_source
from data_prep.sources.source import BadRow, Row, text


def verified(row: Row) -> str | None:
    """The first generation that is complete and was verified, or None."""
    columns = [row.get(key) or [] for key in ("generations", "correctness_math_verify", "is_reasoning_complete")]
    if not all(isinstance(column, list) for column in columns):
        raise BadRow("generations and their verdicts are not lists")
    good = (answer for answer, right, complete in zip(*columns, strict=False) if right and complete)
    return next(good, None)


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {
        "question": text(row, "problem"),
        "answer": text(row, "answer"),
        "solution": verified(row),
        "id": f"openr1_math/{row.get('uuid')}",
    }


SOURCE = hub_source("openr1_math", "open-r1/OpenR1-Math-220k", item, licence="Apache-2.0", role="cot")
