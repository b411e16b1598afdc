"""HumanEval+: HumanEval's 164 functions with many more tests (EvalPlus, Apache-2.0), evaluation only::

{"task_id": "HumanEval/0", "prompt": "from typing import List\\n\\n\\ndef has_close_elements(...", "canonical_solution":
 "\\n    sorted_numbers = sorted(numbers) ...", "entry_point": "has_close_elements",
 "test": "import numpy as np\\n\\ndef is_floats(x) ...\\n\\ndef check(candidate):\\n    inputs = [...]\\n    results = [...] ..."}
"""

from __future__ import annotations

from functools import partial

from data_prep.sources.hub import hub_source
from data_prep.sources.humaneval import answer
from data_prep.sources.source import Row, text


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {
        "question": text(row, "prompt"),
        "answer": answer(row),
        "id": f"humaneval_plus/{text(row, 'task_id')}",
    }


evalplus = partial(hub_source, licence="Apache-2.0", ability="code", uses=("eval",), role="adjacent", split="test")
SOURCE = evalplus("humaneval_plus", "evalplus/humanevalplus", item)
