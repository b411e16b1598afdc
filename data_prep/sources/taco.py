"""TACO: 26,000 programming problems with stdin/stdout tests and reference programs (Apache-2.0)::

    {"question": "There are ...", "solutions": "[\\"...\\"]", "starter_code": "", "input_output": "{...}",
     "difficulty": "MEDIUM", "source": "codeforces", "url": "...", ...}

Difficulty: EASY 1, MEDIUM 2, MEDIUM_HARD 3, HARD 4, VERY_HARD 5.
"""

from __future__ import annotations

from data_prep.sources.apps import pairs, solution
from data_prep.sources.hub import hub_source
from data_prep.sources.source import Row, text

LEVELS = {"EASY": 1.0, "MEDIUM": 2.0, "MEDIUM_HARD": 3.0, "HARD": 4.0, "VERY_HARD": 5.0}


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {
        "question": f"{text(row, 'question')}\n{row.get('starter_code') or ''}".strip(),
        "answer": pairs(row),
        "solution": solution(row),
        "difficulty": LEVELS.get(str(row.get("difficulty"))),
    }


SOURCE = hub_source("taco", "BAAI/TACO", item, licence="Apache-2.0", ability="code", role="adjacent")
