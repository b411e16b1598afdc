"""The answers of an evaluation on disk: one line each as it comes, so that a killed evaluation goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from posttrain_verl.run.folder import replace

Key = tuple[str, int]  # id of the question, number of the sample


@dataclass(frozen=True)
class Answer:
    """One answer: `truncated` when it was cut off at the most tokens, `tokens` is its length."""

    id: str
    sample: int
    text: str
    tokens: int
    truncated: bool

    @property
    def key(self) -> Key:
        return self.id, self.sample


def fingerprint(model: Path | str) -> str:
    """What tells a model on disk from one that took its place: names, sizes and times of its files; a hub id is itself."""
    folder = Path(model)
    if not folder.is_dir():
        return str(model)
    files = sorted(file for file in folder.iterdir() if file.is_file())
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


class AnswerLog:
    """A jsonl file: the first line says what the answers belong to, each further line is an answer.

    Answers of another model, prompt or sampling are dropped when the file is opened; `done` holds those that stand.
    """

    def __init__(self, path: Path, belongs_to: dict[str, Any]):
        self.path = path
        self.done: dict[Key, Answer] = {}
        head = json.dumps(belongs_to, sort_keys=True)
        lines = list(_whole_lines(path))
        if lines and lines[0] == head:
            self.done = {answer.key: answer for answer in map(_answer, lines[1:])}
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written anew: the last line of a killed evaluation may be half a line.
        replace(path, "".join(f"{line}\n" for line in (head, *map(_line, self.done.values()))))
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def add(self, answer: Answer) -> None:
        self._file.write(_line(answer) + "\n")
        self.done[answer.key] = answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()


def _line(answer: Answer) -> str:
    return json.dumps(asdict(answer), ensure_ascii=False)


def _answer(line: str) -> Answer:
    return Answer(**json.loads(line))


def _whole_lines(path: Path) -> Iterator[str]:
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            yield from (line[:-1] for line in file if line.endswith("\n"))
