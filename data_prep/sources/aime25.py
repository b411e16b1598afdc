"""AIME 2025: 30 problems with integer answers, evaluation only (as published)::

{"problem": "Find the sum of all integer bases $b>9$ for which ...", "answer": "70", "id": "0"}
"""

from __future__ import annotations

from data_prep.sources.columns import as_text
from data_prep.sources.hub import hub_source
from data_prep.sources.source import Row, text


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {
        "question": text(row, "problem"),
        "answer": as_text(row.get("answer"), "answer"),
        "id": f"aime25/{row.get('id')}",
    }


SOURCE = hub_source("aime25", "math-ai/aime25", item, licence="competition problems", uses=("eval",), split="test")
