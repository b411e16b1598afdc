"""SVAMP: one-step word problems with a twist (MIT; 700 train, 300 test)::

    {"ID": "chal-777", "Body": "There are 87 oranges and 290 bananas in Philip's collection. ...",
     "Question": "How big is each group of bananas?", "Equation": "( 290.0 / 2.0 )", "Answer": "145.0", "Type": ...}

No worked solutions, so for RL and evaluation only. Difficulty is the number of operations in the equation.
"""

from __future__ import annotations

import re

from data_prep.sources.columns import as_text
from data_prep.sources.hub import hub_source
from data_prep.sources.source import Row, text

OPERATION = re.compile(r" [-+*/] ")


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {
        "question": f"{text(row, 'Body').rstrip('. ')}. {text(row, 'Question')}",
        "answer": as_text(row.get("Answer"), "Answer"),
        "difficulty": float(len(OPERATION.findall(str(row.get("Equation"))))),
    }


SOURCE = hub_source("svamp", "ChilleD/SVAMP", item, licence="MIT", uses=("rl", "eval"))
