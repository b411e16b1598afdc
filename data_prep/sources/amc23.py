"""AMC 2023: 40 problems with integer answers, evaluation only (as published)::

{"id": 0, "question": "Cities $A$ and $B$ are $45$ miles apart. ...", "answer": "27.0", "url": "..."}
"""

from __future__ import annotations

from data_prep.sources.columns import as_text
from data_prep.sources.hub import hub_source
from data_prep.sources.source import Row, text


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {
        "question": text(row, "question"),
        "answer": as_text(row.get("answer"), "answer"),
        "id": f"amc23/{row.get('id')}",
    }


SOURCE = hub_source("amc23", "math-ai/amc23", item, licence="competition problems", uses=("eval",), split="test")
