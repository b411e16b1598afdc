"""MBPP+: 378 exercises of MBPP with many more tests (EvalPlus, Apache-2.0), evaluation only::

{"task_id": 2, "prompt": "Write a function to find the shared elements from the given two lists.",
 "code": "def similar_elements(test_tup1, test_tup2): ...", "test_imports": [], "test_list": ["assert set(...)"],
 "test": "import numpy as np\\nfrom math import inf\\n..."}
"""

from __future__ import annotations

import json

from data_prep.sources.humaneval_plus import evalplus
from data_prep.sources.mbpp import tests
from data_prep.sources.source import Row, text


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {
        "question": f"{text(row, 'prompt')}\nYour code should pass this test:\n{tests(row)[0]}",
        "answer": json.dumps({"functional": text(row, "test")}),
        "id": f"mbpp_plus/{row.get('task_id')}",
    }


SOURCE = evalplus("mbpp_plus", "evalplus/mbppplus", item)
