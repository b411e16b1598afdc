"""One item as filters see it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One item as filters see it; `solution` and `answer` may be None."""

    question: str
    answer: str | None
    solution: str | None
    data_source: str
    ability: str
