"""MBPP: short Python exercises with assertions (CC-BY-4.0, Austin et al. 2021; 374 train, 90 validation, 500 test)::

    {"task_id": 601, "text": "Write a function to find the longest chain ...", "code": "class Pair...",
     "test_list": ["assert max_chain_length([Pair(5, 24), ...], 4) == 3", ...], "test_setup_code": "",
     "challenge_test_list": []}

The first assertion stands in the prompt, since the text alone does not name the function.
"""

from __future__ import annotations

import json

from data_prep.sources.fenced import fenced
from data_prep.sources.hub import hub_source
from data_prep.sources.source import BadRow, Row, text


def tests(row: Row) -> list[str]:
    """The assertions. Raises BadRow if there is none."""
    found = row.get("test_list")
    if not isinstance(found, list) or not found or not all(isinstance(test, str) for test in found):
        raise BadRow(f"test_list is {str(found)[:60]!r}, not a list of assertions")
    return found


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {
        "question": f"{text(row, 'text')}\nYour code should pass this test:\n{tests(row)[0]}",
        "answer": json.dumps({"test_list": tests(row), "test_setup_code": row.get("test_setup_code") or ""}),
        "solution": fenced(text(row, "code")),
        "id": f"mbpp/{row.get('task_id')}",
    }


SOURCE = hub_source(
    "mbpp",
    "google-research-datasets/mbpp",
    item,
    licence="CC-BY-4.0",
    ability="code",
    uses=("sft", "rl", "eval"),
    role="adjacent",
    config="full",
)
