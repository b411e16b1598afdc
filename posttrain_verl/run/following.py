"""Following a run that trains: its metrics, its log, its processes, and what the watch says to them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain_verl.run import roster, stages
from posttrain_verl.run.folder import RunFolder, Status
from posttrain_verl.run.leftovers import Segments
from posttrain_verl.run.metrics import MetricsTail, parse, progress_line, step_line
from posttrain_verl.run.processes import Census, Process
from posttrain_verl.run.record import Record
from posttrain_verl.run.record import write as write_record
from posttrain_verl.watch.machine import ENDING, Death, Situation
from posttrain_verl.watch.watch import Event, Watch, stopping

LOOK_SECONDS = 2.0
HEARTBEAT_SECONDS = 20.0
# Ray's actors are in the roster. A run cannot do without these either, nor without what its rollout servers start.
_ALONE = ("raylet", "gcs_server")
_SERVER = "HttpServer"
_TRAINERS = ("TaskRunner", "TaskRunnerV1")


class Follower:
    """One attempt of a run, looked at by `poll`. It writes status.json, events.jsonl and the record; it ends nothing."""

    def __init__(self, folder: RunFolder, status: Status, census: Census, record: Record, watch: Watch,
                 report: Callable[[str], None], show: Callable[[str], None] | None = None):  # fmt: skip
        self._folder, self._status, self._record, self._watch = folder, status, record, watch
        self._report, self._show = report, show
        self.census = census
        self.segments = Segments()
        self._tail = MetricsTail(folder.metrics_of(status.attempt))
        self._log_size = 0
        self._news = self._told = self._looked = time.monotonic()
        self._stepped: float | None = None
        self._longest_step = 0.0
        self._step_seconds: float | None = None
        self._last: dict[str, Any] = {}

    def poll(self) -> Event | None:
        """Look once; return the event that must end the run, if there is one."""
        events = self._read_metrics()
        self._read_log()
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            events += self.look()
        for event in events:
            self._report(f"  {event.level}: {event.line}")
        self._tell()
        return stopping(events)

    def look(self) -> list[Event]:
        """Look at the processes, record them, and ask the rules on the machine."""
        gone = self.census.look()
        self.census.refresh_names()
        self.segments.look(self.census.members)
        self._write_record()
        stage, _ = stages.read(self._folder.stage_file)
        if stage != self._status.stage:
            self._status.stage = stage
            self._folder.write_status(self._status)
        found = roster.read(self._folder.cluster_file)
        here = {one.pid: one for one in found if one.kind == "actor" and one.pid in self.census.members}
        return self._watch.look(
            Situation(
                silent=time.monotonic() - self._news,
                step=self._status.last_step if self._stepped is not None else None,
                stage=stage,
                longest_step=self._longest_step,
                deaths=(*self._deaths(gone, here), *_of_roster(found)),
                members=self.census.members,
                names=self.census.names | {pid: f"ray::{one.name}" for pid, one in here.items()},
                checkpoints=self._folder.checkpoints,
                trainer=next((pid for pid, one in here.items() if one.name in _TRAINERS), self._driver()),
            )
        )

    def read_rest(self) -> None:
        """Read what was measured since the last look, once the run has ended."""
        with suppress(OSError):
            self._read_metrics()

    def ended(self, error: str, lost: bool) -> Event:
        """Record an end with an error; one that speaks of a lost process is told with Ray's word on which and why."""
        died = [death.saw for death in _of_roster(roster.read(self._folder.cluster_file))] if lost else []
        return self._watch.ended(self._status.last_step, self._status.stage, error, died[0] if died else "")

    def _deaths(self, gone: list[Process], actors: dict[int, roster.Member]) -> list[Death]:
        """Of the processes that ended, those that a run cannot do without."""
        deaths = []
        for one in gone:
            name, parent = self.census.name(one.pid), actors.get(self.census.parents[one.pid])
            if parent and parent.name.endswith(_SERVER):
                if self.census.looks[one.pid] < 2:  # no engine: a server asks lscpu, ldconfig and such while it starts
                    continue
                name = f"an engine process of {parent.name}"
            elif name not in _ALONE:
                continue
            deaths.append(Death(f"pid {one.pid}", f"{name} (pid {one.pid}) died"))
        return deaths

    def _driver(self) -> int | None:
        """The pid of the process that runs the driver's Python: the fork, where the warm Python made one."""
        return self.census.fork_of(self._status.pid) if self._status.pid else None

    def _read_metrics(self) -> list[Event]:
        events: list[Event] = []
        for line in self._tail.read_lines():
            if self._status.attempt > 1:
                with self._folder.metrics.open("ab") as file:
                    file.write(line)
            step, metrics = parse(line)
            now = time.monotonic()
            if self._stepped is not None and step != self._status.last_step:
                self._step_seconds = now - self._stepped
                self._longest_step = max(self._longest_step, self._step_seconds)
            self._stepped = self._news = self._told = now
            self._status.last_step = step
            self._last = self._last | metrics
            self._folder.write_status(self._status)
            self._report(step_line(step, metrics))
            events += self._watch.step(step, metrics)
        return events

    def _read_log(self) -> None:
        size = log_size(self._folder.log)
        if size != self._log_size:
            self._log_size, self._news = size, time.monotonic()

    def _tell(self) -> None:
        """The live line, or a line now and then where nobody can see one change."""
        seconds = time.time() - self._status.started
        if self._show:
            self._show(progress_line(self._status, self._last, self._step_seconds))
        elif time.monotonic() - self._told > HEARTBEAT_SECONDS:
            self._told = time.monotonic()
            self._report(f"  {seconds:.0f} s: {_activity(self._status)}")

    def _write_record(self) -> None:
        members, segments = sorted(self.census.members.values(), key=lambda one: one.pid), sorted(self.segments.names)
        if (members, segments) != (self._record.processes, self._record.segments):
            self._record = replace(self._record, processes=members, segments=segments)
            write_record(self._folder, self._record)


def _of_roster(found: list[roster.Member]) -> list[Death]:
    return [Death(one.id, f"{one.kind} {one.name} (pid {one.pid} on {one.host}) died: {one.died}" if one.pid
                  else f"{one.kind} {one.host} died: {one.died}") for one in found if one.died]  # fmt: skip


def _activity(status: Status) -> str:
    stage = f", {status.stage}" if status.stage and status.stage != ENDING else ""
    if status.last_step is None:
        return f"alive, starting{stage or ' (Ray, model, vLLM)'}"
    return f"alive, after step {status.last_step}{stage}"


def log_size(log: Path) -> int:
    with suppress(FileNotFoundError):
        return log.stat().st_size
    return 0
