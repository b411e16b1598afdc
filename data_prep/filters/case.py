"""One item as filters see it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One item as filters see it; `solution` and `answer` may be None. `writes_gold` and `asked` are those of `filters.Uses`."""

    question: str
    answer: str | None
    solution: str | None
    data_source: str
    ability: str
    writes_gold: bool = False
    asked: tuple[str, ...] = ()
