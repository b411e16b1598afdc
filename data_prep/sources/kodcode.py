"""KodCode-V1: 447,000 synthetic exercises with verified programs and tests (CC-BY-NC-4.0: not for commercial use)::

    {"version": "v1.0", "style": "instruct", "subset": "...", "question_id": "Leetcode_1_I",
     "question": "Given a list of `n` integers ...", "solution": "def max_sum(...): ...",
     "test": "from solution import max_sum\\n\\ndef test_...", "gpt_pass_percentage": 0.7, ...}

Difficulty is one minus the pass rate of GPT-4o. Tests are pytest functions that import from a module `solution`: the
import is taken off and the test functions are called.
"""

from __future__ import annotations

import json
import re

from data_prep.sources.columns import as_number
from data_prep.sources.fenced import fenced
from data_prep.sources.hub import hub_source
from data_prep.sources.source import Row, text

IMPORT = re.compile(r"^(?:from solution import .*|import solution.*)$\n?", re.MULTILINE)
TEST = re.compile(r"^def (test_\w+)\(\)", re.MULTILINE)


def runnable(tests: str) -> str:
    """pytest functions without fixtures as a program that calls them all."""
    calls = "\n".join(f"{name}()" for name in TEST.findall(tests))
    return f"{IMPORT.sub('', tests).strip()}\n\n{calls}"


def item(row: Row) -> Row:
    """One row of the set as an item."""
    passed = as_number(row.get("gpt_pass_percentage"), "gpt_pass_percentage")
    return {
        "question": text(row, "question"),
        "answer": json.dumps({"functional": runnable(text(row, "test"))}),
        "solution": fenced(text(row, "solution")),
        "difficulty": None if passed is None else 1.0 - passed,
        "id": f"kodcode/{row.get('question_id')}",
    }


SOURCE = hub_source("kodcode", "KodCode/KodCode-V1", item, licence="CC-BY-NC-4.0", ability="code", role="adjacent")
