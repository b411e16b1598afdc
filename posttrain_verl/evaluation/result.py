"""The file of an evaluation, `eval/<label>-<eval>.json`: its fields, and how it is read and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypedDict

from posttrain_verl.problem import InputError, Problem
from posttrain_verl.run.folder import replace

SCHEMA = 1
FEWEST = 200  # items; with fewer an interval of 95 % is wider than 7 points to each side at 50 %
ERROR_KINDS = ("format", "logic", "knowledge", "verifier")


class Metric(TypedDict):
    """A share from 0 to 1, its 95 % interval, and the number of items (not of samples) that it is of."""

    value: float
    low: float
    high: float
    n: int


class SamplingFields(TypedDict):
    """How answers were drawn: `k` a question, at most `max_tokens` tokens each; temperature 0 is greedy."""

    temperature: float
    top_p: float
    k: int
    max_tokens: int
    seed: int


class Item(TypedDict):
    """One answer. `id` names the question and is the same in every evaluation of it, `sample` counts from 0 to k - 1.

    `score` to `pred` are the grade (docs/rewards.md). `strict_acc` is 1 for a right answer that stands in a box, after
    `####`, or in a closed code fence, `flexible_acc` for one that stands anywhere. `error` is None for a right answer,
    else one of ERROR_KINDS, and `evidence` what decided that.
    """

    id: str
    sample: int
    data_source: str
    stratum: str | None
    question: str
    answer: str
    gold: str
    truncated: bool
    tokens: int
    score: float
    acc: float
    format: float
    answered: float
    verifier_error: float
    pred: str
    strict_acc: float
    flexible_acc: float
    error: str | None
    evidence: str


class Result(TypedDict):
    """A whole evaluation. `n` of `population` questions were used; `noise` is true below FEWEST.

    `metrics` has accuracy, strict_accuracy, flexible_accuracy, format, truncated, unanswered and verifier_error, and with
    k > 1 pass@1 to pass@k and, for math, maj@k. `errors` counts the wrong answers of each kind.
    """

    schema: int
    model: str
    label: str
    eval: str
    questions: str
    sampling: SamplingFields
    population: int
    n: int
    stratified_by: str | None
    noise: bool
    metrics: dict[str, Metric]
    errors: dict[str, int]
    items: list[Item]


def write(result: Result, path: Path) -> None:
    """Write the whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, json.dumps(result, ensure_ascii=False, indent=1) + "\n")


def read(path: Path) -> Result:
    """Read a file of results.

    Raises:
        InputError: it is not there, no JSON, or of another schema.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("no evaluation", [Problem(f"{path} cannot be read ({error})", _REMEDY)]) from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        what = f"{path} is no evaluation of schema {SCHEMA}"
        raise InputError("no evaluation", [Problem(what, _REMEDY)])
    return found  # type: ignore[return-value]


_REMEDY = "name a file that `python -m posttrain_verl.evaluate` wrote, or evaluate again"
