"""MATH (Hendrycks et al. 2021): competition problems, levels 1 to 5 (MIT; 7500 train, 5000 test)::

    {"problem": "Let \\[f(x) = \\left\\{ ... Find $a+b$ if ...",
     "level": "Level 5", "type": "Algebra", "solution": "For the function to be continuous, ... $\\boxed{0}$."}

MATH-500 is drawn from its test rows: decontaminate against `math_500` when those are trained on.
"""

from __future__ import annotations

from data_prep.sources.boxed import gold
from data_prep.sources.columns import as_number
from data_prep.sources.hub import hub_source
from data_prep.sources.source import Row, text


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {
        "question": text(row, "problem"),
        "answer": gold(text(row, "solution")),
        "solution": row["solution"],
        "difficulty": as_number(row.get("level") or None, "level") if row.get("level") != "Level ?" else None,
    }


SOURCE = hub_source("math", "DigitalLearningGmbH/MATH-lighteval", item, licence="MIT")
