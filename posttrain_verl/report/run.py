"""A run as its folder describes it: its files, metrics.jsonl as columns, and its evaluations with how they compare.

Any file may be missing or half written.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from posttrain_verl.evaluate import comparison
from posttrain_verl.evaluate.comparison import Comparison
from posttrain_verl.evaluate.result import (
    ACCURACY,
    ERROR_KINDS,
    MEAN_REWARD,
    Item,
    Metric,
    Result,
    headline,
    read_result,
)
from posttrain_verl.run.folder import join_attempts, worked_seconds
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verl.metrics import HELD_OUT_ACCURACY, HELD_OUT_REWARD, REWARD, VALIDATION_LOSS, with_held_out
from posttrain_verl.verl.metrics import Metric as TrainerMetric
from posttrain_verl.verl.row_terms import MeasuredLength
from posttrain_verl.verl.stage import Settings, Stage, stage_named
from posttrain_verl.verl.verdicts import Verdicts, read_verdicts

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
    """The numbers of metrics.jsonl. A step that stands there twice, since the run was resumed, counts as written last.

    `derived` has columns that were not logged but follow from other files of the run.
    """

    columns: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    derived: dict[str, dict[int, float]] = field(default_factory=dict)
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
                for key, value in with_held_out(record["data"]).items():
                    if isinstance(value, int | float):
                        self.columns[key][step] = float(value)
        return self

    def __getitem__(self, key: str) -> Series:
        found = self.columns.get(key) or self.derived.get(key)
        if not found:
            return EMPTY
        steps = np.fromiter(found.keys(), np.int64, len(found))
        order = np.argsort(steps, kind="stable")
        return Series(steps[order], np.fromiter(found.values(), np.float64, len(found))[order])

    def first(self, *keys: str) -> Series:
        """The first of several keys that was measured."""
        return next((self[key] for key in keys if key in self.columns), EMPTY)

    def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in (*self.columns, *self.derived) if key.startswith(prefix))

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
    def figure(self) -> str:
        """What it is about: accuracy, or the mean reward where its grades do not say what is right."""
        return headline(self.data)[0]

    @property
    def metric(self) -> Metric:
        """The value of `figure`."""
        return headline(self.data)[1]

    @property
    def shown(self) -> str:
        """The value of `figure` with its interval, for a reader."""
        return comparison.format_interval(self.metric, self.figure)

    def named(self, label: str) -> Evaluation:
        """The same under another label, for a page on which several runs have one of this."""
        return Evaluation(self.path, {**self.data, "label": label})

    def is_of(self, model: str) -> bool:
        """Whether it is of this model, a folder or an id of the hub."""
        mine = str(self.data["model"])
        return bool(model) and (
            mine == model or (Path(mine).is_dir() and Path(mine).resolve() == Path(model).resolve())
        )

    def shares_questions(self, other: Evaluation) -> bool:
        """Whether the two answered questions of the same ids, with the same golds."""
        mine, theirs = ({item["id"]: item["gold"] for item in each.items} for each in (self, other))
        shared = mine.keys() & theirs.keys()
        return bool(shared) and all(mine[name] == theirs[name] for name in shared)

    def extras(self) -> list[tuple[str, Metric]]:
        """The metrics beside accuracy: shares, and with several samples pass@k and maj@k."""
        metrics = self.data["metrics"]
        names = [*SHOWN_METRICS, *(name for name in metrics if "@" in name)]
        return [(name.replace("_", " "), metrics[name]) for name in names if name in metrics]

    def errors(self) -> list[tuple[str, int]]:
        """How many wrong answers there are of each kind."""
        return [(kind, self.data["errors"].get(kind, 0)) for kind in ERROR_KINDS]


def load_evaluation(path: Path) -> Evaluation:
    """A file of results. Raises InputError: it cannot be read, or lacks what every one has."""
    data = read_result(path)
    if missing := sorted(Result.__required_keys__ - data.keys()):
        remedy = "name a file that `python -m posttrain_verl.evaluate` wrote, or evaluate again"
        raise InputError("no evaluation", [Problem(f"{path} lacks {', '.join(missing)}", remedy)])
    if not {ACCURACY, MEAN_REWARD} & data["metrics"].keys():
        what = f"{path} has neither {ACCURACY} nor {MEAN_REWARD} among its metrics"
        raise InputError("no evaluation", [Problem(what, "evaluate again")])
    return Evaluation(path, data)


def read_evaluations(files: Files) -> list[Evaluation]:
    """The evaluations in the folder's `eval/`, in the order of training (`comparison.label_ranks`), then of making."""
    found = []
    for path in (files.path / "eval").glob("*.json"):
        try:
            each = load_evaluation(path)
            found.append(each)
        except InputError as error:
            files.flaws += [problem.what for problem in error.problems]
    ranks = comparison.label_ranks(files.path / "eval")
    return sorted(found, key=lambda one: (ranks.get(one.label, len(ranks)), one.path.stat().st_mtime, one.path.name))


def find_base_evaluations(run: Run) -> list[Evaluation]:
    """The evaluations of the run's base model on the questions that the run was evaluated on: one for each set of them.

    `evaluate base_model=` writes them beside the runs, in eval/MODEL. Of several the one with the same sampling counts, then the
    newest. A set for which the run's own folder has one needs no other.
    """
    home, model, own = run.path.absolute().parent.parent / "eval", str(run.plan.get("model") or ""), run.own_evaluations
    wanted = {each.name: each for each in own if not any(one.is_of(model) and one.name == each.name for one in own)}
    paths = [*home.glob("*.json"), *(home / Path(model).name).glob("*.json")] if model and wanted else []
    found: dict[str, list[tuple[bool, float, Evaluation]]] = defaultdict(list)
    for path in sorted(set(paths)):
        with suppress(InputError):  # other files may lie there
            each = load_evaluation(path)
            last = wanted.get(each.name)
            if last and each.figure == last.figure and each.is_of(model) and each.shares_questions(last):
                found[each.name].append((each.data["sampling"] == last.data["sampling"], path.stat().st_mtime, each))
    chosen = [max(several, key=lambda one: one[:2])[2] for several in found.values()]
    return [each.named(comparison.BASE) if each.label in {one.label for one in own} else each for each in chosen]


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


RUN_FILES = (
    "config.yaml",
    "plan.json",
    "preflight.json",
    "status.json",
    "attempts.jsonl",
    "metrics.jsonl",
    "events.jsonl",
)


@dataclass
class Run:
    """A run folder as it was when it was read; `manifest` is that of the data that was trained on."""

    files: Files
    metrics: Metrics

    def __post_init__(self) -> None:
        self.config, self.plan = self.files.yaml("config.yaml"), self.files.json("plan.json")
        self.preflight, self.status = self.files.json("preflight.json"), self.files.json("status.json")
        self.events = self.files.lines("events.jsonl")
        self.attempts = join_attempts(self.files.lines("attempts.jsonl"), self.status)
        self.manifest = self.files.json(self.train_files[0].parent / "manifest.json") if self.train_files else {}

    @property
    def path(self) -> Path:
        return self.files.path

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @cached_property
    def train_files(self) -> list[Path]:
        """The files that it trains on, absolute."""
        trained = self.option(Settings.key("train_files"))
        named = trained if isinstance(trained, list) else [trained]
        return [Path(each).expanduser().absolute() for each in named if isinstance(each, str)]

    @cached_property
    def own_evaluations(self) -> list[Evaluation]:
        """Those in its folder."""
        return read_evaluations(self.files)

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """Its own, after those of its base model that answered the same questions."""
        return [*find_base_evaluations(self), *self.own_evaluations]

    @property
    def state(self) -> str:
        return str(self.status.get("state", "unknown"))

    @property
    def seconds(self) -> float | None:
        """How long its attempts worked together, without the time between them; None where none has started."""
        return worked_seconds(self.attempts) if self.attempts else None

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
        wanted = self.option(Settings.key("total_steps")) or self.plan.get("total_steps")
        return wanted if isinstance(wanted, int) and wanted > 0 else None

    @cached_property
    def settings(self) -> Settings | None:
        """Its config under names of ours; None without a config or a stage that is known here."""
        return self.stage.settings(OmegaConf.create(self.config)) if self.stage and self.config else None

    @property
    def verdicts(self) -> Verdicts:
        """Which of its answers are right, as far as its rewards say so."""
        reward = self.settings.reward if self.settings else None
        try:
            return read_verdicts(self.plan, reward, self.metrics.columns)
        except OmegaConfBaseException:  # a config with values where VeRL has keys
            return read_verdicts(self.plan, None, self.metrics.columns)

    def results(self) -> dict[str, float]:
        """The last value of what runs are compared by."""
        held_out = (key for prefix in (HELD_OUT_ACCURACY, HELD_OUT_REWARD) for key in self.metrics.keys(prefix))
        keys = [REWARD.key, *held_out, VALIDATION_LOSS.key]
        keys += [metric.key for metric in self.own_metrics]
        return {key: float(values[-1]) for key in keys if len(values := self.metrics[key].finite)}

    def option(self, key: str) -> Any:
        """A value of VeRL's config by its dotted key; None where there is none."""
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node
