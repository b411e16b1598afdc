"""APPS: 10,000 programming problems with stdin/stdout tests (MIT)::

    {"problem_id": 0, "question": "Polycarp has ...", "solutions": "[\\"for _ in range(...\\"]",
     "input_output": "{\\"inputs\\": [...], \\"outputs\\": [...]}", "difficulty": "interview",
     "url": "...", "starter_code": ""}

Difficulty: introductory 1, interview 2, competition 3.
"""

from __future__ import annotations

import json

from data_prep.sources.fenced import fenced
from data_prep.sources.hub import hub_source
from data_prep.sources.source import BadRow, Row, text

LEVELS = {"introductory": 1.0, "interview": 2.0, "competition": 3.0}


def pairs(row: Row) -> str:
    """The tests as one JSON object. Raises BadRow if they are none."""
    try:
        tests = json.loads(text(row, "input_output"))
    except json.JSONDecodeError as error:
        raise BadRow(f"input_output is no JSON ({error})") from None
    if not isinstance(tests, dict) or not tests.get("inputs") or not tests.get("outputs"):
        raise BadRow("input_output has no test")
    return json.dumps(tests)


def solution(row: Row) -> str | None:
    """The first reference program, or None. Raises BadRow if the column holds something else."""
    try:
        programs = json.loads(row.get("solutions") or "[]")
    except (TypeError, ValueError) as error:
        raise BadRow(f"solutions is no JSON ({error})") from None
    if not isinstance(programs, list) or not all(isinstance(program, str) for program in programs):
        raise BadRow(f"solutions is {str(programs)[:60]!r}, not a list of programs")
    return fenced(programs[0]) if programs else None


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {
        "question": f"{text(row, 'question')}\n{row.get('starter_code') or ''}".strip(),
        "answer": pairs(row),
        "solution": solution(row),
        "difficulty": LEVELS.get(str(row.get("difficulty"))),
        "id": f"apps/{row.get('problem_id')}",
    }


SOURCE = hub_source("apps", "codeparrot/apps", item, licence="MIT", ability="code", role="adjacent")
