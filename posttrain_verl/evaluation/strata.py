"""In which order questions are answered: any first part of the order has the strata in their shares of the whole."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from posttrain_verl.evaluation.questions import Question
from posttrain_verl.problem import InputError, Problem

COLUMNS = ("subject", "level", "difficulty", "source")  # of extra_info, the first that tells questions apart
MOST = 12  # strata; a number with more values is cut into fifths


def column(questions: Sequence[Question], asked: str | None) -> str | None:
    """The column of extra_info (or `data_source`) to stratify by: the one asked for, else the first of COLUMNS that has more than
    one value; None where there is none.

    Raises:
        InputError: no question has the column asked for.
    """
    if asked is None:
        found = (name for name in (*COLUMNS, "data_source") if len({_value(one, name) for one in questions}) > 1)
        return next(found, None)
    if all(_value(question, asked) is None for question in questions):
        known = sorted({key for question in questions for key in question.facts})
        what = f"stratify={asked} is no column of extra_info with a value"
        raise InputError("no sample can be drawn", [Problem(what, f"there are: {', '.join(known)}, data_source")])
    return asked


def strata(questions: Sequence[Question], by: str | None) -> list[str | None]:
    """The stratum of each question."""
    values = [_value(question, by) if by else None for question in questions]
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(set(numbers)) <= MOST:
        return [None if value is None else f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    edges = np.unique(np.quantile(numbers, (0.2, 0.4, 0.6, 0.8)))
    return [str(int(np.searchsorted(edges, v))) if isinstance(v, int | float) else str(v) for v in values]


def order(questions: Sequence[Question], groups: Sequence[str | None]) -> list[int]:
    """The places of the questions in a random order of which every first part is a stratified sample.

    Each stratum's questions are shuffled and dealt out at even distances from a random start (systematic sampling). The
    randomness is a hash of the ids, so that every evaluation of a set draws the same sample.
    """
    members = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    at: dict[int, float] = {}
    for group, places in members.items():
        start = _random(f"stratum {group}")
        for rank, place in enumerate(sorted(places, key=lambda place: _random(questions[place].id))):
            at[place] = (rank + start) / len(places)
    return sorted(at, key=lambda place: (at[place], _random(questions[place].id)))


def _value(question: Question, name: str) -> object:
    return question.data_source if name == "data_source" else question.facts.get(name)


def _random(text: str) -> float:
    """A number from 0 to 1 that follows from the text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
