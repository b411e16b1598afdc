"""NuminaMath-CoT: 860,000 problems with worked solutions (Apache-2.0)::

    {"source": "synthetic_math", "problem": "Consider the terms of an arithmetic sequence: $-\\frac{1}{3}, y+2, ...",
     "solution": "For an arithmetic sequence, ... Thus, $y = \\boxed{-\\frac{13}{6}}$.", "messages": [...]}

Proofs have no boxed answer and come out as bad rows: set `bad_rows: drop`.
"""

from __future__ import annotations

from data_prep.sources.boxed import gold
from data_prep.sources.hub import hub_source
from data_prep.sources.source import Row, text


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {"question": text(row, "problem"), "answer": gold(text(row, "solution")), "solution": row["solution"]}


SOURCE = hub_source("numina_math", "AI-MO/NuminaMath-CoT", item, licence="Apache-2.0", role="cot")
