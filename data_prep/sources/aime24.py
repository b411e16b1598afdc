"""AIME 2024: 30 problems with integer answers, evaluation only (as published)::

{"id": 60, "problem": "Every morning Aya goes for a walk ...", "solution": "...",
 "answer": "204", "url": "...", "year": "2024"}
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
        "id": f"aime24/{row.get('id')}",
    }


SOURCE = hub_source("aime24", "HuggingFaceH4/aime_2024", item, licence="competition problems", uses=("eval",))
