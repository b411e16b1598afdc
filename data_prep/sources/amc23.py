"""AMC 2023: 40 problems with integer answers, evaluation only (as published)::

{"id": 0, "question": "Cities $A$ and $B$ are $45$ miles apart. ...", "answer": "27.0", "url": "..."}
"""

from __future__ import annotations

from data_prep.sources.aime24 import competition

SOURCE = competition("amc23", "math-ai/amc23", question="question", split="test")
