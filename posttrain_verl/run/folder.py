"""The run folder: everything a run knows, readable with `ls` and a text editor."""

from __future__ import annotations

import getpass
import glob
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from omegaconf import DictConfig, OmegaConf

from posttrain_verl.paths import run_folders, write_atomically
from posttrain_verl.terminal.problem import InputError, Problem, did_you_mean
from posttrain_verl.verl.checkpoints import has_weights, step_folder, steps_in
from posttrain_verl.verl.stage import Settings, Stage, stage_named

RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"


@dataclass
class Status:
    """`status.json`. Times are seconds since the epoch, and `pid` is the process that trains.

    `why` says why the run ended, and `rule` names the rule of the watch that ended it. `job` names the run's job on a cluster:
    its `cluster` is a module of `clusters`, and the rest is that module's own. On this machine `supervisor` is the process that
    follows the run. `attempt` counts the starts of the run, and `stage` is what VeRL's trainer does now, an activity
    of `verl.progress`. `started`, `ended`, `machine` (its host's name) and `resumed_from` (the step of a checkpoint) are those
    of the last attempt; attempts.jsonl has the ones before it.
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
    machine: str = ""
    resumed_from: int | None = None


@dataclass(frozen=True)
class Attempt:
    """One start of a run and its end: a line of attempts.jsonl, or the last one as status.json has it.

    Times are seconds since the epoch, and `ended` is None while it runs. `last_step` is the last step that it logged.
    """

    attempt: int
    state: str
    started: float
    ended: float | None = None
    resumed_from: int | None = None
    last_step: int | None = None
    why: str = ""

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Self | None:
        """The attempt of a line or a status; None where it never started, or the times are not numbers."""
        started, ended = record.get("started"), record.get("ended")
        if not started or not isinstance(started, int | float) or not isinstance(ended, int | float | None):
            return None
        known = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        return cls(**{"attempt": 1, "state": "", **known})


def join_attempts(lines: Iterable[Mapping[str, Any]], status: Mapping[str, Any]) -> list[Attempt]:
    """Every attempt of a run, in order. The status counts unless its attempt has a line already."""
    found = {each.started: each for line in (status, *lines) if (each := Attempt.read(line))}
    return sorted(found.values(), key=lambda each: each.started)


def worked_seconds(attempts: Iterable[Attempt], now: float | None = None) -> float:
    """How long attempts worked together, without the time between them; one that runs up to `now`."""
    now = time.time() if now is None else now
    return sum(max(0.0, (now if each.ended is None else each.ended) - each.started) for each in attempts)


class RunFolder:
    """`runs/<recipe>/<id>/` and the files in it."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.plan = path / "plan.json"
        self.status = path / "status.json"
        self.log = path / "log.txt"
        self.metrics = path / "metrics.jsonl"
        self.attempts = path / "attempts.jsonl"  # the attempts before the last, one JSON a line
        self.events = path / "events.jsonl"  # what the watch saw and did, one JSON a line
        self.activity_file = path / ".activity.json"  # what VeRL's trainer does at the moment; see `verl.progress`
        self.cluster_file = path / ".cluster.json"  # what Ray knows of the run's actors and nodes; see `run.ray_state`
        self.submission = (
            path / "submission.json"
        )  # of a job of a cluster: what was submitted, and how the job is found
        self.stop_note = path / ".stopped.txt"  # who asked the last attempt to end, and how
        self.checkpoints = path / "checkpoints"
        self.queue_note = path.with_name(f".{path.name}.queued")  # beside it: the run makes its folder when it starts

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make the folder of a new run.

        Raises:
            FileExistsError: it exists. Two runs in one folder would destroy each other's files.
        """
        path.mkdir(parents=True)
        return cls(path)

    @classmethod
    def find(cls, name: str, runs_dir: str | Path = "runs", elsewhere: str = "posttrain.runs_dir=...") -> RunFolder:
        """The run that `name` means: a folder, `<recipe>/<id>`, an `<id>`, or a recipe, which means its newest run.

        `elsewhere` is how the caller's user names another folder of runs.

        Raises:
            InputError: no run has that name, or runs of several recipes have it.
        """
        if (Path(name) / "config.yaml").is_file():
            return cls(Path(name).absolute())
        home = Path(runs_dir).expanduser().absolute()
        named = [run for run in (home / name, *home.glob(f"*/{glob.escape(name)}")) if (run / "config.yaml").is_file()]
        if not named:
            named = sorted((config.parent for config in (home / name).glob("*/config.yaml")), key=_launch_time)[-1:]
        if len(named) == 1:
            return cls(named[0])
        if named:
            meant = ", ".join(str(run.relative_to(home)) for run in sorted(named))
            raise InputError("no such run", [Problem(f"run={name} means several runs", f"name one: {meant}")])
        runs = sorted(run_folders(home), key=_launch_time)
        known = ", ".join(str(run.relative_to(home)) for run in reversed(runs[-5:])) or "none"
        spellings = [str(run.relative_to(home)) for run in runs] + [word for run in runs for word in run.parts[-2:]]
        remedy = f"{did_you_mean(name, spellings, 'run=')}newest runs there: {known}; {elsewhere} looks elsewhere"
        raise InputError("no such run", [Problem(f"run={name} is not a run in {home}", remedy)])

    def note_queued(self, where: str) -> None:
        """Note that the run waits in a queue that nobody here can ask about. `where`: e.g. "cluster=slurm"."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.queue_note.write_text(f"in the queue of {where}\n")

    @property
    def is_queued(self) -> bool:
        return self.queue_note.exists() and not self.config.exists()

    def require(self) -> None:
        """Raises InputError where there is no run: its folder was deleted or moved, or never was."""
        if not self.config.exists() and not self.is_queued:
            what = f"{self.path} {'has no config.yaml' if self.path.is_dir() else 'is gone'}"
            remedy = "a run that was moved is named by its new folder; one that was deleted is launched again"
            raise InputError("no such run", [Problem(what, remedy)])

    def attempt_metrics(self, attempt: int) -> Path:
        """Where VeRL writes in this attempt: it empties the file, so only the first one may have metrics.jsonl itself."""
        return self.metrics if attempt == 1 else self.path / f".metrics.{attempt}.jsonl"

    def write_config(self, verl: DictConfig) -> None:
        """Write exactly what VeRL gets. A run that was queued is then no longer."""
        write_atomically(self.config, OmegaConf.to_yaml(verl))
        self.queue_note.unlink(missing_ok=True)

    def write_plan(self, plan: dict[str, Any]) -> None:
        write_atomically(self.plan, json.dumps(plan, indent=2, default=str) + "\n")

    def read_plan(self) -> dict[str, Any]:
        """The content of plan.json. Raises InputError where it is not there or cannot be read."""
        try:
            return json.loads(self.plan.read_text())
        except (OSError, ValueError) as error:
            what = f"{self.plan} cannot be read: {error}"
            raise InputError(
                "the run's folder is damaged", [Problem(what, "launch the run again under another id")]
            ) from None

    def write_status(self, status: Status) -> None:
        write_atomically(self.status, json.dumps(asdict(status), indent=2) + "\n")

    def read_status(self) -> Status:
        """The status. Where the file is missing or cannot be read, the run counts as failed, and the other files say the rest."""
        try:
            return Status(**json.loads(self.status.read_text()))
        except FileNotFoundError:
            return self._status_from_files("is missing")
        except (ValueError, TypeError):  # cut short by a machine that went down, or another version's
            return self._status_from_files("cannot be read")

    @property
    def has_begun(self) -> bool:
        """Whether the run was started once, also where its status.json was lost since."""
        return any(file.exists() for file in (self.status, self.log, self.metrics, self.attempts)) or any(
            self.checkpoint_steps()
        )

    def _status_from_files(self, fault: str) -> Status:
        """The status of a run whose status.json has a `fault`: a submitted job, a run that trained, or one that never started."""
        if job := self.read_submission().get("job"):
            return Status(RUNNING, started=self.submission.stat().st_mtime, job=job)
        if not self.has_begun:
            return Status(FAILED, why="never started; `resume` starts it")
        files = [self.metrics, *self.path.glob(".metrics.*.jsonl")]
        step = max(
            (int(line["step"]) for file in files for line in self._read_lines(file) if "step" in line), default=None
        )
        attempt = 1 + max((int(line.get("attempt", 0)) for line in self._read_lines(self.attempts)), default=0)
        trained = "was started" if step is None else f"trained up to step {step}"
        saved = "its newest whole checkpoint" if self.checkpoint_steps() else "the start, as there is no checkpoint"
        why = f"{self.status.name} {fault}, but the run {trained}; `resume` continues from {saved}"
        # The config is written at the start of each attempt.
        started = self.config.stat().st_mtime if self.config.exists() else 0.0
        return Status(FAILED, started=started, ended=self.last_sign_of_life(), last_step=step, why=why, attempt=attempt)

    def read_submission(self) -> dict[str, Any]:
        """What was submitted of a run that is a job of a cluster; empty for another run."""
        with suppress(OSError, ValueError):
            return dict(json.loads(self.submission.read_text()))
        return {}

    def note_stop(self, how: str) -> None:
        """Note who ends the run, before it is ended. Whoever sees its end takes it for the reason. `how`: e.g. "with Ctrl-C"."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user without a name
            user = str(os.getuid())
        write_atomically(self.stop_note, f"stopped by {user}@{os.uname().nodename} {how}\n")

    def read_stop(self) -> str:
        """Who ended the last attempt, and how; empty where nobody noted it."""
        with suppress(OSError):
            return self.stop_note.read_text().strip()
        return ""

    def started(self, pid: int, attempt: int = 1, last_step: int | None = None) -> Status:
        """Record that the process `pid` now trains; a resumed run has a `last_step` already."""
        total = self.read_plan().get("total_steps") if self.plan.exists() else None
        status = Status(RUNNING, pid, time.time(), last_step=last_step, supervisor=os.getpid(), attempt=attempt,
                        total_steps=total, machine=os.uname().nodename, resumed_from=last_step)  # fmt: skip
        self.write_status(status)
        return status

    def next_attempt(self, step: int | None) -> None:
        """Note the attempt that ended, and make the status that of the next one, which resumes from `step`."""
        status = (
            self.read_status()
        )  # before it is noted: where status.json was lost, the number comes from attempts.jsonl
        self.note_attempt()
        status.last_step, status.attempt = step, status.attempt + 1
        self.write_status(status)

    def note_attempt(self) -> None:
        """Add the attempt of status.json to attempts.jsonl, unless it is there or never started."""
        status = self.read_status()
        last = Attempt.read(asdict(status))
        lines = list(self._read_lines(self.attempts))
        if last is None or any(line.get("started") == last.started for line in lines):
            return
        if last.ended is None:
            last = replace(last, state=FAILED, ended=self.last_sign_of_life(), why=last.why or "nobody saw it end")
        write_atomically(self.attempts, "".join(json.dumps(line) + "\n" for line in (*lines, asdict(last))))

    def read_attempts(self, status: Status) -> list[Attempt]:
        """Every attempt, in order, the last one as `status` has it."""
        return join_attempts(self._read_lines(self.attempts), asdict(status))

    def last_sign_of_life(self) -> float:
        """When the run last wrote its log or status, in seconds since the epoch: the end of an attempt that nobody saw."""
        files = [file for file in (self.status, self.log, self.metrics) if file.exists()]
        return max((file.stat().st_mtime for file in files), default=time.time())

    @staticmethod
    def _read_lines(file: Path) -> Iterator[dict[str, Any]]:
        """The whole lines of a file of JSON objects; none where there is no file."""
        for line in file.read_bytes().splitlines() if file.exists() else ():
            with suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    yield found

    @property
    def stage(self) -> Stage:
        """The stage of the run, as its plan.json names it."""
        return stage_named(self.read_plan()["stage"])

    def read_settings(self) -> Settings:
        """The run's config, typed and under our own names."""
        config = OmegaConf.load(self.config)
        assert isinstance(config, DictConfig)
        return self.stage.settings(config)

    def checkpoint_step(self) -> int:
        """The step of the newest checkpoint with whole shards. Raises InputError where there is none."""
        steps = self.checkpoint_steps()
        if saved := [step for step in steps if has_weights(self.shards(step))]:
            return saved[-1]
        what = f"{self.checkpoints} holds no checkpoint"
        remedy = f"set {Settings.key('save_every')} to a number of steps"
        if steps:
            what = f"{self.checkpoints} holds no whole checkpoint: shards of {steps} are missing or cut short"
            remedy = "copy them again, or train further steps: `resume`"
        elif there := (self.read_status().job or {}).get("folder"):
            what = f"{self.checkpoints} holds no checkpoint: those of a job of a cluster stay there, in {there}/checkpoints"
            remedy = f"copy that folder to {self.checkpoints}"
        elif self.read_status().state == RUNNING:
            step = self.read_status().last_step or 0
            remedy = f"wait: it is at step {step}, and {Settings.key('save_every')} says when it saves"
        raise InputError("no checkpoint", [Problem(what, remedy)])

    def checkpoint(self, step: int) -> Path:
        """The folder with the trained model's shards of a step. Raises InputError where the step was not saved."""
        folder = self.shards(step)
        if not folder.is_dir():
            steps = self.checkpoint_steps()
            raise InputError("no checkpoint", [Problem(f"step {step} is not saved (any more)", f"there are: {steps}")])
        return folder

    def checkpoint_steps(self) -> list[int]:
        """The steps that have a folder, whole or not."""
        return sorted(steps_in(self.checkpoints))

    def shards(self, step: int) -> Path:
        """Where the shards of the trained model lie, if the step was saved."""
        return step_folder(self.checkpoints, step) / self.stage.weights_folder


def _launch_time(run: Path) -> tuple[float, str]:
    """When a run was launched; its name decides where the file system's times are coarse."""
    return (run / "config.yaml").stat().st_mtime, run.name
