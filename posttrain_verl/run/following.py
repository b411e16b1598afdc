"""Following a run that trains: its metrics, its log, its processes, and what the watch says to them."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from posttrain_verl.run import roster, stages
from posttrain_verl.run.folder import RunFolder, Status
from posttrain_verl.run.leftovers import Segments
from posttrain_verl.run.logtail import Log
from posttrain_verl.run.metrics import MetricsTail, parse, progress_line, step_line
from posttrain_verl.run.processes import Census, Process, told_exit
from posttrain_verl.run.record import Record
from posttrain_verl.run.record import write as write_record
from posttrain_verl.watch.life import WINDOW_SECONDS, Activity, AwakeClock, Changes, folder_size
from posttrain_verl.watch.machine import ENDING, Death, Situation
from posttrain_verl.watch.watch import Event, Watch, stopping

LOOK_SECONDS = 2.0
HEARTBEAT_SECONDS = 20.0
# What a run cannot do without beside Ray's actors, which are in the roster: Ray's own two, and what vLLM calls its processes.
_OF_RAY = ("raylet", "gcs_server")
_NEEDED = ("VLLM::EngineCore", "VLLM::Worker", "VLLM::DPCoordinator")
_SERVER = "HttpServer"
_TRAINERS = ("TaskRunner", "TaskRunnerV1")
_POLLING = ("generation", "validation")  # stages in which the trainer only asks whether rollouts are done
_STARTING_RAY = "starting Ray"  # in which the driver looks after its Ray itself
_QUIET_SECONDS = 5.0  # after which the files under checkpoints/ are counted, taking this share of the time at most
_SHARE = 0.05
_FOLDER_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class Follower:
    """One attempt of a run, looked at by `poll`. It writes status.json, events.jsonl and the record; it ends nothing."""

    def __init__(self, folder: RunFolder, status: Status, census: Census, record: Record, watch: Watch, log: Log,
                 report: Callable[[str], None], show: Callable[[str], None] | None = None):  # fmt: skip
        self._folder, self._status, self._record, self._watch, self._log = folder, status, record, watch, log
        self._report, self._show = report, show
        self.census = census
        self.segments = Segments()
        self._tail = MetricsTail(folder.metrics_of(status.attempt))
        self._clock = AwakeClock()
        self._progress, self._activity = Changes(), Activity()
        self._next_count = 0.0
        self._told = self._looked = 0.0
        self._stepped: float | None = None
        self._longest_step = 0.0
        self._step_seconds: float | None = None
        self._last: dict[str, Any] = {}
        config = OmegaConf.load(folder.config) if folder.config.exists() else OmegaConf.create()
        self._checkpoints = Path(OmegaConf.select(config, "trainer.default_local_dir") or folder.checkpoints)
        self._most_rollouts = 0
        self._lost: dict[Process, int | None] = {}  # needed processes that ended, in that order, with their exit codes
        self._failed: set[str] = set()  # errors of looks that were skipped

    def poll(self) -> Event | None:
        """Look once; return the event that must end the run, if there is one."""
        now = self._clock()
        events = self._read_metrics(now)
        self._progress.note("log", self._log.size, now)
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            events += self._look_if_possible()
        for event in events:
            self._report(f"  {event.level}: {event.line}")
        self._tell(now)
        return stopping(events)

    def _look_if_possible(self) -> list[Event]:
        """One look that fails is no fault of the run: /proc and Ray's table change while they are read.

        Raises:
            OSError: the run folder cannot be written.
        """
        try:
            return self.look()
        except Exception as error:
            inside = isinstance(error, OSError) and str(error.filename or "").startswith(str(self._folder.path))
            if inside or (isinstance(error, OSError) and error.errno in _FOLDER_ERRORS):
                raise
            text = f"{type(error).__name__}: {error}"
            if text not in self._failed:
                self._failed.add(text)
                self._watch.note("look", self._status.last_step, self._status.stage, text, "this look was skipped")
            return []

    def look(self) -> list[Event]:
        """Look at the processes, record them, and ask the rules on the machine."""
        now = self._clock()
        gone = self.census.look()
        stage = self._read_stage(now)  # after it: what a run that ends takes down with it is no cause
        found = roster.read(self._folder.cluster_file)
        here = {one.pid: one for one in found if one.kind == "actor" and one.here and one.pid in self.census.members}
        self._note_lost(gone, stage, {one.pid for one in found if one.name.endswith(_SERVER) and not one.ended})
        self.census.refresh_names()
        self.segments.look(self.census.members)
        self._write_record()
        names = self.census.names | {pid: f"ray::{one.name}" for pid, one in here.items()}
        trainer = next((pid for pid, one in here.items() if one.name in _TRAINERS), self._driver())
        self._look_for_life(now, names, trainer if stage in _POLLING else None)
        return self._watch.look(
            Situation(
                now=now,
                silent=now - self._progress.last,
                idle=now - max(self._progress.last, self._activity.last),
                signs=f"{self._progress.told(now)}; {self._activity.seen}",
                unseen=sum(one.kind == "actor" and one.pid and not one.ended and one.pid not in here for one in found),
                step=self._status.last_step if self._stepped is not None else None,
                stage=stage,
                longest_step=self._longest_step,
                deaths=(*self._deaths(), *_of_roster(found)),
                members=self.census.members,
                names=names,
                checkpoints=self._checkpoints,
                trainer=trainer,
            )
        )

    def read_rest(self) -> None:
        """Read what was measured since the last look, once the run has ended."""
        with suppress(OSError):
            self._read_metrics(self._clock())

    def ended(self, error: str, lost: bool) -> Event:
        """Record an end with an error; one that speaks of a lost process is told with the word on which it was, and why."""
        deaths = [*self._deaths(), *_of_roster(roster.read(self._folder.cluster_file))] if lost else []
        said = error if roster.speaks_of_a_death(error) else ""
        return self._watch.ended(self._status.last_step, self._status.stage, error, deaths[0].saw if deaths else said)

    def _read_stage(self, now: float) -> str:
        stage, _ = stages.read(self._folder.stage_file)
        if stage != self._status.stage:
            self._status.stage = stage
            self._most_rollouts = 0
            self._folder.write_status(self._status)
        self._progress.note("stage", stage, now)
        if (rollouts := stages.read_rollouts(self._folder.stage_file)) > self._most_rollouts:
            self._most_rollouts = rollouts  # fewer are no progress: DAPO throws groups away, maybe all of them for ever
            self._progress.note("rollouts", rollouts, now)
        return stage

    def _look_for_life(self, now: float, names: dict[int, str], polls: int | None) -> None:
        if self._activity.is_due:
            self._activity.look(self.census.members | self.census.warm_pythons(), names, now, polls)
        if now - self._progress.last >= _QUIET_SECONDS and now >= self._next_count:
            began = time.monotonic()
            self._progress.note("files under checkpoints", folder_size(self._checkpoints), now)
            self._next_count = now + max(WINDOW_SECONDS, (time.monotonic() - began) / _SHARE)

    def _note_lost(self, gone: list[Process], stage: str, servers: set[int]) -> None:
        """Remember the needed ones of the processes that ended, and how they did as soon as that is known."""
        self._lost = {one: self.census.exit_code(one) if code is None else code for one, code in self._lost.items()}
        for one in gone if stage != ENDING else []:
            code = self.census.exit_code(one)
            if self._is_needed(one.pid, stage, code is not None, servers):
                self._lost[one] = code

    def _is_needed(self, pid: int, stage: str, is_known: bool, servers: set[int]) -> bool:
        """Whether the run cannot do without a process that ended; `is_known` is whether its exit status is.

        An engine that ended nobody knows how counts below one of the rollout `servers` only: a judge that a reward starts, and
        closes when it is done, has one, too.
        """
        name = self.census.name(pid)
        if name in _OF_RAY:
            return stage != _STARTING_RAY and self.census.named_itself(pid)
        if not name.startswith(_NEEDED) or not self.census.named_itself(pid):
            return False
        return is_known or self.census.is_below(pid, servers)

    def _deaths(self) -> list[Death]:
        """The needed processes that ended, and not by themselves: exit status 0 is no crash."""
        return [Death(f"pid {one.pid}", f"{self.census.name(one.pid)} (pid {one.pid}) died: {told_exit(code)}")
                for one, code in self._lost.items() if code != 0]  # fmt: skip

    def _driver(self) -> int | None:
        """The pid of the process that runs the driver's Python: the fork, where the warm Python made one."""
        return self.census.fork_of(self._status.pid) if self._status.pid else None

    def _read_metrics(self, now: float) -> list[Event]:
        events: list[Event] = []
        for line in self._tail.read_lines():
            if self._status.attempt > 1:
                with self._folder.metrics.open("ab") as file:
                    file.write(line)
            step, metrics = parse(line)
            if self._stepped is not None and step != self._status.last_step:
                self._step_seconds = now - self._stepped
                self._longest_step = max(self._longest_step, self._step_seconds)
            self._progress.note("metrics", self._tail.offset, now)
            self._stepped = self._told = now
            self._most_rollouts = 0
            self._status.last_step = step
            self._last = self._last | metrics
            self._folder.write_status(self._status)
            self._report(step_line(step, metrics))
            events += self._watch.step(step, metrics)
        return events

    def _tell(self, now: float) -> None:
        """The live line, or a line now and then where nobody can see one change."""
        if self._show:
            self._show(progress_line(self._status, self._last, self._step_seconds))
        elif now - self._told > HEARTBEAT_SECONDS:
            self._told = now
            self._report(f"  {now:.0f} s: {_activity(self._status)}")

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
