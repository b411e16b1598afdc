"""OpenThoughts-114k: synthetic reasoning for maths, code and science (Apache-2.0)::

    {"system": "Your role as an assistant involves thoroughly exploring ...",
     "conversations": [{"from": "user", "value": "Return your final response within \\boxed{}. ..."},
                       {"from": "assistant", "value": "<|begin_of_thought|> ... <|begin_of_solution|> ... "}]}

For SFT only. The thought and solution marks become `<think>` and its end, which reward and template know. Rows without
a boxed answer (code, science) come out as bad rows: set `bad_rows: drop`.
"""

from __future__ import annotations

from data_prep.sources.boxed import gold
from data_prep.sources.hub import hub_source
from data_prep.sources.source import BadRow, Row, text


def said(row: Row, role: str) -> str:
    """What `role` says first. Raises BadRow if it says nothing."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadRow(f"conversations is {str(turns)[:60]!r}, not a list of turns")
    return text(next((turn for turn in turns if turn.get("from") == role), {}), "value")


def reasoning(row: Row) -> str:
    """The assistant's turn with the usual marks around the thought."""
    answer = said(row, "assistant").replace("<|begin_of_thought|>", "<think>").replace("<|end_of_thought|>", "</think>")
    return answer.replace("<|begin_of_solution|>", "").replace("<|end_of_solution|>", "").strip()


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {"question": said(row, "user"), "answer": gold(reasoning(row)), "solution": reasoning(row)}


SOURCE = hub_source(
    "open_thoughts",
    "open-thoughts/OpenThoughts-114k",
    item,
    licence="Apache-2.0",
    data_source="math/open_thoughts",
    uses=("sft",),
    role="cot",
)
