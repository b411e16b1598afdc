"""DeepScaleR-Preview: 40,000 problems of AIME, AMC, Omni-MATH and STILL with short answers (MIT)::

    {"problem": "The operation $\\otimes$ is defined for all nonzero numbers by ...",
     "answer": "-\\frac{2}{3}", "solution": "1. **Apply the operation ..."}

Solutions are often empty or do not reach the answer, so for RL only. Holds AIME problems up to 2023.
"""

from __future__ import annotations

from data_prep.sources.hub import hub_source
from data_prep.sources.source import Row, text


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {"question": text(row, "problem"), "answer": text(row, "answer")}


SOURCE = hub_source(
    "deepscaler",
    "agentica-org/DeepScaleR-Preview-Dataset",
    item,
    licence="MIT",
    data_source="math/deepscaler",
    uses=("rl",),
)
