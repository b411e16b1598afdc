"""AIME 2024: 30 problems with integer answers, evaluation only (as published)::

{"id": 60, "problem": "Every morning Aya goes for a walk ...", "solution": "...",
 "answer": "204", "url": "...", "year": "2024"}
"""

from __future__ import annotations

from data_prep.sources.columns import as_text
from data_prep.sources.hub import hub_source
from data_prep.sources.source import Row, Source, text


def competition(kind: str, hub: str, question: str = "problem", split: str = "train") -> Source:
    """A competition's problems with the column `question`, an `answer` and an `id`, for evaluation only."""

    def item(row: Row) -> Row:
        answer = as_text(row.get("answer"), "answer")
        return {"question": text(row, question), "answer": answer, "id": f"{kind}/{row.get('id')}"}

    return hub_source(kind, hub, item, licence="competition problems", uses=("eval",), split=split)


SOURCE = competition("aime24", "HuggingFaceH4/aime_2024")
