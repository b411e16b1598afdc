"""Everything that the folder of one run tells."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from posttrain_verl.reporting import evaluations
from posttrain_verl.reporting.evaluations import Evaluation
from posttrain_verl.reporting.files import Files, Record
from posttrain_verl.reporting.series import Metrics
from posttrain_verl.run.folder import RUNNING

FILES = ("config.yaml", "plan.json", "preflight.json", "status.json", "metrics.jsonl", "events.jsonl")


@dataclass
class Run:
    """A run folder as it was when it was read."""

    files: Files
    metrics: Metrics

    @property
    def path(self) -> Path:
        return self.files.path

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @cached_property
    def config(self) -> Record:
        return self.files.yaml("config.yaml")

    @cached_property
    def plan(self) -> Record:
        return self.files.json("plan.json")

    @cached_property
    def preflight(self) -> Record:
        return self.files.json("preflight.json")

    @cached_property
    def status(self) -> Record:
        return self.files.json("status.json")

    @cached_property
    def events(self) -> list[Record]:
        return self.files.lines("events.jsonl")

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        return evaluations.read(self.files)

    @cached_property
    def manifest(self) -> Record:
        """The manifest of the data that was trained on."""
        trained = self.option("data.train_files")
        first = trained[0] if isinstance(trained, list) and trained else trained
        if not isinstance(first, str):
            return {}
        return self.files.json(Path(first).expanduser().absolute().parent / "manifest.json")

    @property
    def state(self) -> str:
        return str(self.status.get("state", "unknown"))

    @property
    def is_live(self) -> bool:
        return self.state == RUNNING

    @property
    def stage(self) -> str:
        return str(self.plan.get("stage", ""))

    @property
    def seconds(self) -> float | None:
        """From the start to the end, or to now."""
        started = self.status.get("started")
        return (self.status.get("ended") or time.time()) - started if started else None

    @property
    def last_step(self) -> int | None:
        return self.status.get("last_step") or self.metrics.last_step

    @property
    def planned_steps(self) -> int | None:
        wanted = self.option("trainer.total_training_steps")
        return wanted if isinstance(wanted, int) and wanted > 0 else None

    def results(self) -> dict[str, float]:
        """The last value of what runs are compared by."""
        keys = ["critic/score/mean", *self.metrics.keys("val-core/"), "val/loss"]
        return {key: float(values[-1]) for key in keys if len(values := self.metrics[key].finite)}

    def option(self, key: str) -> Any:
        """A value of VeRL's config by its dotted key; None where there is none."""
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node


def read(path: Path, metrics: Metrics | None = None) -> Run:
    """The run in `path`. A page that is built again hands in the `metrics` it had, so that only new lines are read."""
    run = Run(Files(path), (metrics or Metrics()).follow(path / "metrics.jsonl"))
    if run.metrics.bad_lines:
        run.files.flaws.append(f"metrics.jsonl: {run.metrics.bad_lines} lines could not be read")
    return run
