"""AIME 2025: 30 problems with integer answers, evaluation only (as published)::

{"problem": "Find the sum of all integer bases $b>9$ for which ...", "answer": "70", "id": "0"}
"""

from __future__ import annotations

from data_prep.sources.aime24 import competition

SOURCE = competition("aime25", "math-ai/aime25", split="test")
