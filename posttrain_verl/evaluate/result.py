"""The files of an evaluation: the answers as they come, and the result with its fields.

`<out>.answers.jsonl` gets one line for each answer, so that a killed evaluation resumes.
`eval/<label>-<eval>.json` is the result.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict

from posttrain_verl.paths import write_atomically
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem


@dataclass(frozen=True)
class Answer:
    """One answer: `truncated` when it was cut off at the most tokens, `tokens` is its length, and `prompt_tokens` that of its
    prompt (0 in files of earlier versions). `no_text` says why an endpoint gave no text, e.g. "tool_calls"; "" where it did."""

    id: str
    sample: int
    text: str
    tokens: int
    truncated: bool
    prompt_tokens: int = 0
    no_text: str = ""


def model_fingerprint(model: Path | str) -> str:
    """Changes when another model takes the place of this one on disk: names, sizes and times of its files. A hub id stays."""
    folder = Path(model)
    if not folder.is_dir():
        return str(model)
    files = sorted(file for file in folder.iterdir() if file.is_file())
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


class AnswerLog:
    """A jsonl file: the first line says what the answers belong to, each further line is an answer.

    Answers of another model, prompt or sampling are dropped when the file is opened. `done` holds the others by the id of the
    question and the number of the sample.
    """

    def __init__(self, path: Path, belongs_to: dict[str, Any]):
        self.path = path
        self.done: dict[tuple[str, int], Answer] = {}
        head = json.dumps(belongs_to, sort_keys=True)
        lines = []
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
                lines = [line[:-1] for line in file if line.endswith("\n")]
        if lines and lines[0] == head:
            answers = [answer for line in lines[1:] if (answer := _read_line(line))]
            self.done = {(answer.id, answer.sample): answer for answer in answers}
            if damaged := len(lines) - 1 - len(answers):
                log.info(f"{path}: {damaged} lines are damaged, and are asked for again")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written anew: the last line of a killed evaluation may be half a line.
        write_atomically(path, "".join(f"{line}\n" for line in (head, *map(_answer_line, self.done.values()))))
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def add(self, answer: Answer) -> None:
        self._file.write(_answer_line(answer) + "\n")
        self.done[answer.id, answer.sample] = answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()


def _read_line(line: str) -> Answer | None:
    try:
        return Answer(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _answer_line(answer: Answer) -> str:
    return json.dumps(asdict(answer), ensure_ascii=False)


SCHEMA = 1
FEWEST = 200  # items; with fewer an interval of 95 % is wider than 7 points to each side at 50 %
ERROR_KINDS = ("format", "logic", "knowledge", "verifier")


ACCURACY, MEAN_REWARD = "accuracy", "reward"


class Metric(TypedDict):
    """A mean with its 95 % interval, and the number of items (not of samples) that it is of. All but the reward are shares
    from 0 to 1."""

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


class Verdict(TypedDict, total=False):
    """What our graders say of an answer beside its score. A reward of the user's own says what it knows of it."""

    acc: float
    format: float
    answered: float
    verifier_error: float
    pred: str
    strict_acc: float
    flexible_acc: float


class Item(Verdict):
    """One answer. `id` names the question and is the same in every evaluation of it, `sample` counts from 0 to k - 1.

    `score` to `pred` are the grade (docs/rewards.md). A reward of the user's own gives its score, and of the rest
    what it knows. `strict_acc` is 1 for a right answer that stands in a box, after
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
    error: str | None
    evidence: str


class GradedBy(TypedDict, total=False):
    """The reward of the user's own that graded, with a digest of its file and arguments."""

    reward: str


class Result(GradedBy):
    """A whole evaluation. `n` of `population` questions were used; `noise` is true below FEWEST.

    `metrics` has accuracy, strict_accuracy, flexible_accuracy, format, truncated, unanswered and verifier_error, and with
    k > 1 pass@1 to pass@k and, for math, maj@k. `errors` counts the wrong answers of each kind. Where a `reward` of the user's
    own graded, `metrics` has the mean reward and truncated, and accuracy and pass@k only where the reward gives `acc`.
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


def headline(result: Result) -> tuple[str, Metric]:
    """The figure that an evaluation is about, with its name: accuracy, or the mean reward where nobody says what is right."""
    name = ACCURACY if ACCURACY in result["metrics"] else MEAN_REWARD
    return name, result["metrics"][name]


def item_value(item: Item, figure: str) -> float:
    """What an answer counts in a figure, accuracy or the mean reward."""
    return item["acc"] if figure == ACCURACY else item["score"]


def write_result(result: Result, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(result, ensure_ascii=False, indent=1) + "\n")


def read_result(path: Path) -> Result:
    """Read a file of results. Raises InputError: it is not there, no JSON, or of another schema."""
    remedy = "name a file that `python -m posttrain_verl.evaluate` wrote, or evaluate again"
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("no evaluation", [Problem(f"{path} cannot be read ({error})", remedy)]) from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise InputError("no evaluation", [Problem(f"{path} is not an evaluation of schema {SCHEMA}", remedy)])
    return found  # type: ignore[return-value]
