"""MATH-500: the held-out 500 problems of MATH (Lightman et al. 2023; MIT), evaluation only::

{"problem": "Convert the point $(0,3)$ in rectangular coordinates to polar coordinates. ...",
 "solution": "We have that $r = \\sqrt{0^2 + 3^2} = 3.$ ...", "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
 "subject": "Precalculus", "level": 2, "unique_id": "test/precalculus/807.json"}
"""

from __future__ import annotations

from data_prep.sources.columns import as_number
from data_prep.sources.hub import hub_source
from data_prep.sources.source import Row, text


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {
        "question": text(row, "problem"),
        "answer": text(row, "answer"),
        "solution": row.get("solution"),
        "difficulty": as_number(row.get("level"), "level"),
        "id": f"math_500/{row.get('unique_id')}",
    }


SOURCE = hub_source(
    "math_500",
    "HuggingFaceH4/MATH-500",
    item,
    licence="MIT",
    uses=("eval",),
    split="test",
    revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
)
