"""GSM8K: grade-school word problems with worked solutions (MIT; 7473 train, 1319 test)::

    {"question": "Natalia sold clips to 48 of her friends in April, and then ...",
     "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\\n... = 72 clips altogether ...\\n#### 72"}

The calculator marks `<<...>>` are taken out of the solutions. Difficulty is the number of lines of working.
"""

from __future__ import annotations

import re

from data_prep.sources.hub import hub_source
from data_prep.sources.source import BadRow, Row, text

MARKS = re.compile(r"<<[^<>\n]*>>")


def gold(solution: str) -> str:
    """The final answer after `####`. Raises BadRow without one."""
    _, mark, answer = solution.rpartition("####")
    if not mark or not answer.strip():
        raise BadRow(f"answer has no `#### N` at its end, but {solution[-60:]!r}")
    return answer.strip().replace(",", "")


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {
        "question": text(row, "question"),
        "answer": gold(text(row, "answer")),
        "solution": MARKS.sub("", row["answer"]),
        "difficulty": float(row["answer"].strip().count("\n")),
    }


SOURCE = hub_source(
    "gsm8k",
    "openai/gsm8k",
    item,
    licence="MIT",
    uses=("sft", "rl", "eval"),
    config="main",
    revision="cc7b047b6e5bb11b4f1af84efc572db110a51b3c",
)
