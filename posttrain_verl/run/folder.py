"""The run folder: everything a run knows, readable with `ls` and a text editor."""

from __future__ import annotations

import glob
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posttrain_verl.problem import InputError, Problem
from posttrain_verl.run.checkpoints import has_weights

RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"


@dataclass
class Status:
    """`status.json`: `why` says why the run ended, times are seconds since the epoch, `pid` is the process that trains.

    `job` is what `clusters.job.Job` takes, where the run is a job of a Ray cluster. On this machine
    `supervisor` is the process that follows it, `attempt` counts the starts of the run, `stage` is what VeRL does now,
    `rule` names the rule of the watch that ended the run.
    """

    state: str
    pid: int | None = None
    started: float = 0.0
    ended: float | None = None
    last_step: int | None = None
    why: str = ""
    job: dict[str, str] | None = None
    supervisor: int | None = None
    attempt: int = 1
    stage: str = ""
    rule: str = ""
    total_steps: int | None = None


class RunFolder:
    """`runs/<recipe>/<id>/` and the files in it."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make the folder of a new run.

        Raises:
            FileExistsError: there is a run in it; two runs in one folder would destroy each other's files.
        """
        path.mkdir(parents=True)
        return cls(path)

    @classmethod
    def find(cls, name: str, runs_dir: str | Path = "runs") -> RunFolder:
        """The run that `name` means: a folder, `<recipe>/<id>`, an `<id>`, or a recipe, whose newest run it is then.

        Raises:
            InputError: no run, or runs of several recipes, with that name.
        """
        if (Path(name) / "config.yaml").is_file():
            return cls(Path(name).absolute())
        home = Path(runs_dir).expanduser().absolute()
        named = [run for run in (home / name, *home.glob(f"*/{glob.escape(name)}")) if (run / "config.yaml").is_file()]
        if not named:
            named = sorted((config.parent for config in (home / name).glob("*/config.yaml")), key=_written)[-1:]
        if len(named) != 1:
            raise InputError("no such run", [_no_single_run(name, home, named)])
        return cls(named[0])

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """What the watch saw and did, one JSON a line."""
        return self.path / "events.jsonl"

    @property
    def stage_file(self) -> Path:
        """What VeRL's trainer does at the moment; see `stages`."""
        return self.path / ".stage.json"

    @property
    def cluster_file(self) -> Path:
        """What Ray knows of the run's actors and nodes; see `roster`."""
        return self.path / ".cluster.json"

    def metrics_of(self, attempt: int) -> Path:
        """Where VeRL writes in this attempt: it empties the file, so only the first one may have metrics.jsonl itself."""
        return self.metrics if attempt == 1 else self.path / f".metrics.{attempt}.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def write_config(self, verl: DictConfig) -> None:
        """Write exactly what VeRL gets."""
        replace(self.config, OmegaConf.to_yaml(verl))

    def write_plan(self, plan: dict[str, Any]) -> None:
        replace(self.plan, json.dumps(plan, indent=2, default=str) + "\n")

    def read_plan(self) -> dict[str, Any]:
        return json.loads(self.plan.read_text())

    def write_status(self, status: Status) -> None:
        replace(self.status, json.dumps(asdict(status), indent=2) + "\n")

    def read_status(self) -> Status:
        """The status; that of a run which was prepared and never started, if there is none, or none that can be read."""
        try:
            return Status(**json.loads(self.status.read_text()))
        except FileNotFoundError:
            return Status(FAILED, why="never started")
        except (ValueError, TypeError):  # cut short by a machine that went down, or another version's
            return Status(FAILED, why=f"{self.status.name} cannot be read")

    def started(self, pid: int, attempt: int = 1, last_step: int | None = None) -> Status:
        """Record that the process `pid` now trains; a resumed run has a `last_step` already."""
        total = self.read_plan().get("total_steps") if self.plan.exists() else None
        status = Status(RUNNING, pid, time.time(), last_step=last_step, supervisor=os.getpid(), attempt=attempt,
                        total_steps=total)  # fmt: skip
        self.write_status(status)
        return status

    def checkpoint_step(self, stage: str) -> int:
        """The step of the newest checkpoint with whole shards.

        Raises:
            InputError: there is none.
        """
        saved = [step for step in self.checkpoint_steps() if has_weights(self.shards(stage, step))]
        if not saved:
            what = f"{self.checkpoints} holds no checkpoint"
            raise InputError("no checkpoint", [Problem(what, "set trainer.save_freq to a number of steps")])
        return saved[-1]

    def checkpoint(self, stage: str, step: int) -> Path:
        """The folder with the actor's shards of a step.

        Raises:
            InputError: that step was not saved.
        """
        folder = self.shards(stage, step)
        if not folder.is_dir():
            steps = self.checkpoint_steps()
            raise InputError("no checkpoint", [Problem(f"step {step} is not saved (any more)", f"there are: {steps}")])
        return folder

    def checkpoint_steps(self) -> list[int]:
        """The steps that have a folder, whole or not."""
        return sorted(int(path.name.rsplit("_", 1)[1]) for path in self.checkpoints.glob("global_step_*"))

    def shards(self, stage: str, step: int) -> Path:
        """Where the shards of the trained model lie, if the step was saved."""
        return self.checkpoints / f"global_step_{step}" / ("actor" if stage == "rl" else "")


def _written(run: Path) -> tuple[float, str]:
    """For the newest run: when it was launched, and its name where the file system's times are coarse."""
    return (run / "config.yaml").stat().st_mtime, run.name


def _no_single_run(name: str, home: Path, named: list[Path]) -> Problem:
    if named:
        meant = ", ".join(str(run.relative_to(home)) for run in sorted(named))
        return Problem(f"run={name} means several runs", f"name one: {meant}")
    newest = sorted((config.parent for config in home.glob("*/*/config.yaml")), key=_written)[-5:]
    known = ", ".join(str(run.relative_to(home)) for run in reversed(newest)) or "none"
    return Problem(
        f"run={name} is no run in {home}", f"newest runs there: {known}; posttrain.runs_dir=... looks elsewhere"
    )


def replace(path: Path, text: str) -> None:
    """Write a whole file or nothing: a reader never sees half of it, whoever else writes it at the same moment."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
