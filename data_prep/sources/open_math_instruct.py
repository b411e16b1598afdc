"""OpenMathInstruct-2: 14 million solutions written by Llama-3.1-405B (CC-BY-4.0)::

    {"problem": "Solve for $y$:\\n\\n$$\\\\frac{y^2 - 3y + 2}{y - 2} = y + 1$$",
     "generated_solution": "Start by factoring the numerator: ... \\\\boxed{\\\\text{No solution}}",
     "expected_answer": "\\\\text{No solution}", "problem_source": "augmented_math"}

Several solutions a problem; exact dedup keeps one unless the source says `unique: row`.
"""

from __future__ import annotations

from data_prep.sources.hub import hub_source
from data_prep.sources.source import Row, text


def item(row: Row) -> Row:
    """One row of the set as an item."""
    return {
        "question": text(row, "problem"),
        "answer": text(row, "expected_answer"),
        "solution": text(row, "generated_solution"),
    }


SOURCE = hub_source(
    "open_math_instruct", "nvidia/OpenMathInstruct-2", item, licence="CC-BY-4.0", role="cot", split="train_1M"
)
