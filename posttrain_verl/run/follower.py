"""Following a run that trains: its metrics, its log, its process tree, and what the watch says to them."""

from __future__ import annotations

import errno
import re
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain_verl.machine.processes import Process, ProcessTree, Segments, describe_exit
from posttrain_verl.run import ray_state
from posttrain_verl.run.folder import RunFolder, Status
from posttrain_verl.run.output import Log, MetricsTail, last_lines, parse_line, progress_line, step_line
from posttrain_verl.run.record import Record, write_record
from posttrain_verl.terminal.console import LIVE, log
from posttrain_verl.verl import progress
from posttrain_verl.watch.liveness import WINDOW_SECONDS, Activity, AwakeClock, Changes, folder_size
from posttrain_verl.watch.machine_rules import ENDING, Death, Situation
from posttrain_verl.watch.watcher import Event, Watch, stopping_event

LOOK_SECONDS = 2.0
HEARTBEAT_SECONDS = 20.0
ALIVE = " s: alive, "  # in each heartbeat; who reads the log of a job knows by it that training was started
# The processes that a run needs beside Ray's actors, which `ray_state` knows: two of Ray, and vLLM's by their titles.
_RAY_PROCESSES = ("raylet", "gcs_server")
_VLLM_PROCESSES = ("VLLM::EngineCore", "VLLM::Worker", "VLLM::DPCoordinator")
_POLLING = ("generation", "validation")  # activities in which the trainer only asks whether rollouts are done
_STARTING_RAY = "starting Ray"  # in which the driver looks after its Ray itself
_CORE_PREFIX = re.compile(r"^\[[^\]]*\] \S+: ")
_QUIET_SECONDS = 5.0  # after which the files under checkpoints/ are counted, taking this share of the time at most
_SHARE = 0.05
_FOLDER_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class Follower:
    """One attempt of a run. `poll` looks at it, and writes status.json, events.jsonl and the record. It ends nothing."""

    def __init__(self, folder: RunFolder, status: Status, tree: ProcessTree, record: Record, watch: Watch, log: Log):
        self._folder, self._status, self._record, self._watch, self._log = folder, status, record, watch, log
        self.process_tree = tree
        self.segments = Segments()
        self._tail = MetricsTail(folder.attempt_metrics(status.attempt))
        self._clock = AwakeClock()
        self._progress, self._activity = Changes(), Activity()
        self._next_count = 0.0
        self._shown = self._looked = 0.0
        self._stepped: float | None = None
        self._longest_step = 0.0
        self._step_seconds: float | None = None
        self._last: dict[str, Any] = {}
        settings = folder.read_settings() if folder.config.exists() else None
        self._checkpoints = Path((settings and settings.checkpoint_dir) or folder.checkpoints)
        self._retention_key = settings.model.key("kept_checkpoints") if settings else ""
        self._most_rollouts = 0
        self._lost: dict[Process, int | None] = {}  # needed processes that ended, in that order, with their exit codes
        self._skipped: set[str] = set()  # the errors of looks that were skipped

    def poll(self) -> Event | None:
        """Look once; return the event that must end the run, if there is one."""
        now = self._clock()
        events = self._read_metrics(now)
        self._progress.note("log", self._log.size, now)
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            events += self._look_if_possible()
        for event in events:
            log.info(f"  {event.level}: {event.line}")
        if log.isEnabledFor(LIVE):
            log.log(LIVE, progress_line(self._status, self._last, self._step_seconds))
        elif now - self._shown > HEARTBEAT_SECONDS:  # nobody can see a line change in place
            self._shown = now
            activity = f", {self._status.stage}" if self._status.stage not in ("", ENDING) else ""
            starting = f"starting{activity or ' (Ray, model, engines)'}"
            step = self._status.last_step
            log.info(f"  {now:.0f}{ALIVE}{starting if step is None else f'after step {step}{activity}'}")
        return stopping_event(events)

    def _look_if_possible(self) -> list[Event]:
        """One look that fails is not a fault of the run: /proc and Ray's table change while they are read.

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
            if text not in self._skipped:
                self._skipped.add(text)
                self._watch.note("look", self._status.last_step, self._status.stage, text, "this look was skipped")
            return []

    def look(self) -> list[Event]:
        """Look at the process tree, record it, and ask the rules on the machine."""
        now, tree = self._clock(), self.process_tree
        gone = tree.look()
        activity = self._read_activity(now)  # after the look: what a run that ends takes down with it is not a cause
        found = ray_state.read_members(self._folder.cluster_file)
        here = {one.pid: one for one in found if one.kind == "actor" and one.here and one.pid in tree.members}
        servers = {one.pid for one in found if one.name.endswith(progress.ROLLOUT_SERVER) and not one.ended}
        self._note_lost(gone, activity, servers)
        tree.refresh_names()
        self.segments.look(tree.members)
        self._write_record()
        names = tree.names | {pid: f"ray::{one.name}" for pid, one in here.items()}
        # Without an actor that trains it is the process that runs the driver's Python: a fork, where the warm Python made one.
        driver = tree.fork_of(self._status.pid) if self._status.pid else None
        trainer = next((pid for pid, one in here.items() if one.name in progress.TRAINERS), driver)
        self._look_for_life(now, names, trainer if activity in _POLLING else None)
        return self._watch.look(
            Situation(
                now=now,
                silent=now - self._progress.last,
                idle=now - max(self._progress.last, self._activity.last),
                signs=f"{self._progress.describe_ages(now)}; {self._activity.seen}",
                unseen=sum(one.kind == "actor" and one.pid and not one.ended and one.pid not in here for one in found),
                step=self._status.last_step if self._stepped is not None else None,
                activity=activity,
                longest_step=self._longest_step,
                deaths=tuple(self._list_deaths(found)),
                members=tree.members,
                names=names,
                checkpoints=self._checkpoints,
                retention_key=self._retention_key,
                trainer=trainer,
            )
        )

    def is_starting_ray(self) -> bool:
        """Whether the driver was last seen to start Ray. Nothing of the user's runs in it before that is done."""
        return progress.read_activity(self._folder.activity_file)[0] == _STARTING_RAY

    def last_line(self) -> str:
        """The last line of the log, without the time and place that Ray's C++ core puts before it."""
        lines = last_lines(self._folder.log, 1) if self._folder.log.exists() else []
        return _CORE_PREFIX.sub("", lines[-1]) if lines else ""

    def read_rest(self) -> None:
        """Read what was measured since the last look, once the run has ended."""
        with suppress(OSError):
            self._read_metrics(self._clock())

    def ended(self, error: str, lost: bool) -> Event:
        """Record an end with an error. Where a process was `lost`, the event says which one it was, and why."""
        dead = error if ray_state.mentions_death(error) else ""
        if lost:
            deaths = self._list_deaths(ray_state.read_members(self._folder.cluster_file))
            dead = deaths[0].saw if deaths else dead
        return self._watch.ended(self._status.last_step, self._status.stage, error, dead)

    def _read_activity(self, now: float) -> str:
        activity, _ = progress.read_activity(self._folder.activity_file)
        if activity != self._status.stage:
            self._status.stage = activity
            self._most_rollouts = 0
            self._folder.write_status(self._status)
        self._progress.note("stage", activity, now)
        if (rollouts := progress.read_rollout_count(self._folder.activity_file)) > self._most_rollouts:
            self._most_rollouts = rollouts  # fewer are not progress: DAPO discards groups, maybe all of them for ever
            self._progress.note("rollouts", rollouts, now)
        return activity

    def _look_for_life(self, now: float, names: dict[int, str], polls: int | None) -> None:
        if self._activity.is_due:
            self._activity.look(self.process_tree.members | self.process_tree.warm_pythons(), names, now, polls)
        if now - self._progress.last >= _QUIET_SECONDS and now >= self._next_count:
            began = time.monotonic()
            self._progress.note("files under checkpoints", folder_size(self._checkpoints), now)
            self._next_count = now + max(WINDOW_SECONDS, (time.monotonic() - began) / _SHARE)

    def _note_lost(self, gone: list[Process], activity: str, servers: set[int]) -> None:
        """Remember the needed ones of the processes that ended, with their exit codes as soon as these are known."""
        exit_code = self.process_tree.exit_code
        self._lost = {one: exit_code(one) if code is None else code for one, code in self._lost.items()}
        for one in gone if activity != ENDING else []:
            code = exit_code(one)
            if self._is_needed(one.pid, activity, code is not None, servers):
                self._lost[one] = code

    def _is_needed(self, pid: int, activity: str, is_known: bool, servers: set[int]) -> bool:
        """Whether the run needs a process that ended. `is_known` says whether its exit status is known.

        An engine with an unknown exit status counts only below one of the rollout `servers`. A judge that a reward starts, and
        closes when it is done, has an engine, too.
        """
        name = self.process_tree.name(pid)
        if name in _RAY_PROCESSES:
            return activity != _STARTING_RAY and self.process_tree.named_itself(pid)
        if not name.startswith(_VLLM_PROCESSES) or not self.process_tree.named_itself(pid):
            return False
        return is_known or self.process_tree.is_below(pid, servers)

    def _list_deaths(self, found: list[ray_state.Member]) -> list[Death]:
        """The needed processes that crashed, and the deaths that Ray knows of. Exit status 0 is not a crash."""
        deaths = [Death(f"pid {one.pid}", f"{self.process_tree.name(one.pid)} (pid {one.pid}) died: {describe_exit(code)}")
                  for one, code in self._lost.items() if code != 0]  # fmt: skip
        for member in found:
            if member.died:
                name = f"{member.name} (pid {member.pid} on {member.host})" if member.pid else member.host
                deaths.append(Death(member.id, f"{member.kind} {name} died: {member.died}"))
        return deaths

    def _read_metrics(self, now: float) -> list[Event]:
        events: list[Event] = []
        for line in self._tail.read_lines():
            if self._status.attempt > 1:
                with self._folder.metrics.open("ab") as file:
                    file.write(line)
            step, metrics = parse_line(line)
            if self._stepped is not None and step != self._status.last_step:
                self._step_seconds = now - self._stepped
                self._longest_step = max(self._longest_step, self._step_seconds)
            self._progress.note("metrics", self._tail.offset, now)
            self._stepped = self._shown = now
            self._most_rollouts = 0
            self._status.last_step = step
            self._last = self._last | metrics
            self._folder.write_status(self._status)
            log.info(step_line(step, metrics))
            events += self._watch.step(step, metrics, self._log.first_failed_answer)
        return events

    def _write_record(self) -> None:
        members = sorted(self.process_tree.members.values(), key=lambda one: one.pid)
        segments = sorted(self.segments.names)
        if (members, segments) != (self._record.processes, self._record.segments):
            self._record = replace(self._record, processes=members, segments=segments)
            write_record(self._folder, self._record)
