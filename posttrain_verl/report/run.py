"""A run as its folder describes it: its files, metrics.jsonl as columns, and its evaluations with how they compare.

Any file may be missing or half written.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml
from numpy.typing import NDArray

from posttrain_verl.evaluate import comparison
from posttrain_verl.evaluate.comparison import Comparison
from posttrain_verl.evaluate.result import ERROR_KINDS, Item, Metric, Result, read_result
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verl.metrics import REWARD, VALIDATION_ACCURACY, VALIDATION_LOSS
from posttrain_verl.verl.metrics import Metric as TrainerMetric
from posttrain_verl.verl.stage import MeasuredLength, Settings, Stage, stage_named

JsonObject = dict[str, Any]


class Files:
    """The files of one folder; `flaws` says which of them could not be read, and why."""

    def __init__(self, path: Path):
        self.path = path
        self.flaws: list[str] = []

    def json(self, name: str | Path) -> JsonObject:
        """A JSON object, or an empty one where there is none."""
        return self._read_object(name, orjson.loads)

    def yaml(self, name: str) -> JsonObject:
        """A YAML mapping, or an empty one where there is none."""
        return self._read_object(name, lambda raw: yaml.load(raw, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))

    def lines(self, name: str) -> list[JsonObject]:
        """The objects of a file with one JSON object a line; lines that are not are counted as a flaw."""
        records = [parse_line(line) for line in (self._read_bytes(name) or b"").splitlines()]
        found = [record for record in records if record is not None]
        if bad := len(records) - len(found):
            self.flaws.append(f"{name}: {bad} of {len(records)} lines are not a JSON object")
        return found

    def text(self, name: str) -> str:
        """The file as text, empty where there is none."""
        return (self._read_bytes(name) or b"").decode(errors="replace")

    def _read_object(self, name: str | Path, read: Any) -> JsonObject:
        raw = self._read_bytes(name)
        if raw is None:
            return {}
        try:
            found = read(raw)
        except (ValueError, yaml.YAMLError) as error:
            self.flaws.append(f"{name} cannot be read: {str(error).splitlines()[0]}")
            return {}
        if not isinstance(found, dict):
            self.flaws.append(f"{name} does not hold an object")
            return {}
        return found

    def _read_bytes(self, name: str | Path) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self.flaws.append(f"{name} cannot be read: {error.strerror}")
            return None


def parse_line(line: bytes) -> JsonObject | None:
    """The object of one line, or None. Python's json also reads NaN and Infinity, which VeRL writes and orjson refuses."""
    try:
        found = orjson.loads(line)
    except ValueError:
        try:
            found = json.loads(line)
        except ValueError:
            return None
    return found if isinstance(found, dict) else None


Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Series:
    """One metric: `steps` (n,) ascending and `values` (n,), which may hold NaN and infinities."""

    steps: Ints
    values: Floats

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def finite(self) -> Floats:
        return self.values[np.isfinite(self.values)]

    def ends(self) -> tuple[float, float] | None:
        """The means of the first and the last tenth of what is finite; None with fewer than two values."""
        values = self.finite
        if len(values) < 2:
            return None
        tenth = max(1, len(values) // 10)
        return float(values[:tenth].mean()), float(values[-tenth:].mean())


EMPTY = Series(np.empty(0, np.int64), np.empty(0))


@dataclass
class Metrics:
    """The numbers of metrics.jsonl. A step that stands there twice, since the run was resumed, counts as written last."""

    columns: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    bad_lines: int = 0
    _offset: int = 0

    def follow(self, path: Path) -> Metrics:
        """Read the complete lines that were written since the last call."""
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return self
        if size < self._offset:
            self.columns.clear()
            self._offset = self.bad_lines = 0
        with path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                record = parse_line(line)
                if record is None or not isinstance(record.get("data"), dict):
                    self.bad_lines += 1
                    continue
                step = int(record.get("step", 0))
                for key, value in record["data"].items():
                    if isinstance(value, int | float):
                        self.columns[key][step] = float(value)
        return self

    def __getitem__(self, key: str) -> Series:
        found = self.columns.get(key)
        if not found:
            return EMPTY
        steps = np.fromiter(found.keys(), np.int64, len(found))
        order = np.argsort(steps, kind="stable")
        return Series(steps[order], np.fromiter(found.values(), np.float64, len(found))[order])

    def first(self, *keys: str) -> Series:
        """The first of several keys that was measured."""
        return next((self[key] for key in keys if key in self.columns), EMPTY)

    def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self.columns if key.startswith(prefix))

    @property
    def last_step(self) -> int | None:
        return max((max(column) for column in self.columns.values() if column), default=None)


def dump_json(value: Any) -> bytes:
    """JSON of plain values and NumPy arrays; what is not finite becomes null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


MEANINGS = {
    "format": "a right answer that could not be read: no box, cut off, or none at all",
    "logic": "an answer, and a step on the way to it that is false",
    "knowledge": "a wrong answer without a step that can be shown to be false",
    "verifier": "the grader failed: no fault of the model",
}
SHOWN_METRICS = ("strict_accuracy", "flexible_accuracy", "truncated", "unanswered", "verifier_error")


@dataclass(frozen=True)
class Evaluation:
    """One file of docs/evaluate.md, and the file it came from."""

    path: Path
    data: Result = field(repr=False)

    @property
    def label(self) -> str:
        return self.data["label"]

    @property
    def name(self) -> str:
        """The questions: gsm8k, math_500 ..."""
        return self.data["eval"]

    @property
    def items(self) -> list[Item]:
        return self.data["items"]

    @property
    def accuracy(self) -> Metric:
        return self.data["metrics"]["accuracy"]

    def named(self, label: str) -> Evaluation:
        """The same under another label, for a page on which several runs have one of this."""
        return Evaluation(self.path, {**self.data, "label": label})

    def extras(self) -> list[tuple[str, Metric]]:
        """The metrics beside accuracy: shares, and with several samples pass@k and maj@k."""
        metrics = self.data["metrics"]
        names = [*SHOWN_METRICS, *(name for name in metrics if "@" in name)]
        return [(name.replace("_", " "), metrics[name]) for name in names if name in metrics]

    def errors(self) -> list[tuple[str, int]]:
        """How many wrong answers there are of each kind."""
        return [(kind, self.data["errors"].get(kind, 0)) for kind in ERROR_KINDS]


def read_evaluations(files: Files) -> list[Evaluation]:
    """The evaluations in the folder's `eval/`, in the order of training (`comparison.label_ranks`), then of making."""
    found = []
    for path in (files.path / "eval").glob("*.json"):
        try:
            data = read_result(path)
        except InputError as error:
            files.flaws += [problem.what for problem in error.problems]
            continue
        if missing := Result.__required_keys__ - data.keys():
            files.flaws.append(f"{path} lacks {', '.join(sorted(missing))}")
        elif "accuracy" in data["metrics"]:
            found.append(Evaluation(path, data))
    ranks = comparison.label_ranks(files.path / "eval")
    return sorted(found, key=lambda one: (ranks.get(one.label, len(ranks)), one.path.stat().st_mtime, one.path.name))


def compare_evaluations(evaluations: Sequence[Evaluation], files: Files) -> list[Comparison]:
    """The paired comparisons of all that answered the same questions (`evaluate.comparison`): each against the first and
    against the one before it, the p-values corrected for their number. What cannot be compared is a flaw of the page."""
    named = {f"{each.label}@{each.name}#{number}": each.data for number, each in enumerate(evaluations)}
    try:
        return comparison.compare_results(named)
    except InputError as error:
        files.flaws += [f"not compared: {problem.what}" for problem in error.problems]
        return []


def headline_comparison(compared: Sequence[Comparison]) -> Comparison | None:
    """The comparison that the page is about: of the last model with the first."""
    return next((each for each in reversed(compared) if each.first == compared[0].first), None)


RUN_FILES = ("config.yaml", "plan.json", "preflight.json", "status.json", "metrics.jsonl", "events.jsonl")


@dataclass
class Run:
    """A run folder as it was when it was read; `manifest` is that of the data that was trained on."""

    files: Files
    metrics: Metrics

    def __post_init__(self) -> None:
        self.config, self.plan = self.files.yaml("config.yaml"), self.files.json("plan.json")
        self.preflight, self.status = self.files.json("preflight.json"), self.files.json("status.json")
        self.events = self.files.lines("events.jsonl")
        trained = self.option(Settings.key("train_files"))
        first = trained[0] if isinstance(trained, list) and trained else trained
        folder = Path(first).expanduser().absolute().parent if isinstance(first, str) else None
        self.manifest = self.files.json(folder / "manifest.json") if folder else {}

    @property
    def path(self) -> Path:
        return self.files.path

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        return read_evaluations(self.files)

    @property
    def state(self) -> str:
        return str(self.status.get("state", "unknown"))

    @property
    def seconds(self) -> float | None:
        """From the start to the end, or to now."""
        started = self.status.get("started")
        return (self.status.get("ended") or time.time()) - started if started else None

    @property
    def last_step(self) -> int | None:
        return self.status.get("last_step") or self.metrics.last_step

    @cached_property
    def stage(self) -> Stage | None:
        """The stage of the run; None where its plan.json names none that is known here."""
        try:
            return stage_named(str(self.plan.get("stage")))
        except KeyError:
            return None

    @property
    def measured_lengths(self) -> tuple[MeasuredLength, ...]:
        """The lengths that its trainer logs."""
        return self.stage.settings_type.measured_lengths() if self.stage else ()

    @property
    def own_metrics(self) -> tuple[TrainerMetric, ...]:
        """The metrics that no other stage logs."""
        return self.stage.own_metrics if self.stage else ()

    @property
    def planned_steps(self) -> int | None:
        wanted = self.option(Settings.key("total_steps"))
        return wanted if isinstance(wanted, int) and wanted > 0 else None

    def results(self) -> dict[str, float]:
        """The last value of what runs are compared by."""
        keys = [REWARD.key, *self.metrics.keys(VALIDATION_ACCURACY), VALIDATION_LOSS.key]
        keys += [metric.key for metric in self.own_metrics]
        return {key: float(values[-1]) for key in keys if len(values := self.metrics[key].finite)}

    def option(self, key: str) -> Any:
        """A value of VeRL's config by its dotted key; None where there is none."""
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node
