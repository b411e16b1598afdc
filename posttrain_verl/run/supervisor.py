"""Starts the process that trains, follows it by its files and its processes, and says how it ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from posttrain_verl.run import environment, interrupts, leftovers, processes, record, roster, stages
from posttrain_verl.run.folder import DONE, FAILED, INTERRUPTED, RunFolder, Status
from posttrain_verl.run.following import Follower
from posttrain_verl.run.interrupts import Interrupts
from posttrain_verl.run.logtail import Log
from posttrain_verl.run.processes import Census, Process, told_exit
from posttrain_verl.watch.watch import Event, Watch

POLL_SECONDS = 0.5
WAIT_SECONDS = 0.1
STOP_SECONDS = 15.0
ALARM_STOP_SECONDS = 5.0  # what hangs does not hear; the stacks were taken before
CLUSTER_SECONDS = 5.0  # a cluster that goes on ends the workers of a run in its own time

Report = Callable[[str], None]


def train(folder: RunFolder, variables: dict[str, str], report: Report, watch: Watch | None = None,
          attempt: int = 1, show: Report | None = None) -> Status:  # fmt: skip
    """Run VeRL on the folder's config until it ends; the log goes to log.txt, a line a step to `report`, the live line to `show`.

    Returns the status, which is also in status.json. Ctrl-C ends the run's processes and is reported as interrupted; a rule
    of the watch that stops the run is the reason of its failure, and so is a run folder that cannot be written any more.
    Nothing of the run stays but its folder; of a failed one Ray's own logs go there, too.
    """
    with interrupts.noted() as noted, leftovers.temporary_folder() as temporary, folder.log.open("a+b") as file:
        log = Log(file)
        process = _start(folder, log, {**variables, **environment.of_temporary(temporary)})
        last_step = folder.read_status().last_step if attempt > 1 else None
        status, began = folder.started(process.pid, attempt, last_step), boot_seconds()
        follower = _follower(folder, status, variables, temporary, watch or Watch(folder.events), log, report, show)
        event, seconds = None, STOP_SECONDS
        try:
            event = _follow(process, follower, noted)
            status.state = INTERRUPTED if noted.count else DONE if event is None and process.returncode == 0 else FAILED
            seconds = ALARM_STOP_SECONDS if event else STOP_SECONDS
        except OSError as error:  # the disk is full, or gone
            status.state, status.why = FAILED, f"the run folder cannot be written: {error}"
        finally:
            end(process, follower, noted, seconds)
        follower.read_rest()
        if status.state == FAILED:
            keep_ray_logs(temporary, folder)
            with suppress(OSError):
                _explain(status, event, follower, log.first_error(), process.returncode)
        status.ended, status.stage = status.started + boot_seconds() - began, ""
    try:
        folder.write_status(status)
        record.close(folder)
    except OSError as error:  # the record stays, and the next start writes what this one cannot
        report(f"status.json cannot be written: {error}")
    return status


def boot_seconds() -> float:
    """A clock that goes on while the machine sleeps and that nobody sets: durations of a run are by it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _start(folder: RunFolder, log: Log, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start the driver. It holds the other end of its standard input open no longer than this process lives."""
    python = variables.get(environment.WARM_PYTHON, environment.python())
    command = [python, "-u", "-m", "posttrain_verl.run.driver", str(folder.path)]
    stages.forget(folder.stage_file)
    folder.cluster_file.unlink(missing_ok=True)
    return subprocess.Popen(
        command, stdout=log.file, stderr=subprocess.STDOUT, stdin=subprocess.PIPE,
        env={**os.environ, **variables}, start_new_session=True,
    )  # fmt: skip


def _follower(folder: RunFolder, status: Status, variables: dict[str, str], temporary: Path, watch: Watch, log: Log,
              report: Report, show: Report | None) -> Follower:  # fmt: skip
    assert status.pid is not None
    marker = f"VERL_FILE_LOGGER_PATH={variables['VERL_FILE_LOGGER_PATH']}"
    warm = environment.warm_folder(variables)
    census = Census(marker, status.pid, warm / "forks" if warm else None)
    folders = [str(temporary)] + ([str(warm)] if warm and environment.WARM_PYTHON not in os.environ else [])
    supervisor = processes.process(os.getpid())
    driver = processes.process(status.pid)
    assert supervisor is not None
    known = record.Record(os.uname().nodename, processes.boot(), supervisor, [driver] if driver else [], folders)
    record.write(folder, known)
    return Follower(folder, status, census, known, watch, log, report, show)


def _follow(process: subprocess.Popen[bytes], follower: Follower, noted: Interrupts) -> Event | None:
    """Until the process ends, or the watch or the user wants it to end."""
    while not noted.count:
        running = process.poll() is None
        event = follower.poll()
        if not running or event:
            return event
        time.sleep(POLL_SECONDS)
    return None


def end(process: subprocess.Popen[bytes], follower: Follower, noted: Interrupts, seconds: float) -> None:
    """End the process and all it started: politely for so many seconds, so that it stops its Ray, then by force.

    A second Ctrl-C ends the waiting.
    """
    census = follower.census
    census.look()
    follower.segments.look(census.members, at_once=True)
    if process.poll() is None:  # else its number may be another's by now
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until and noted.count < 2:
        time.sleep(WAIT_SECONDS)
    until = time.monotonic() + STOP_SECONDS
    while (
        time.monotonic() < until
    ):  # what was being started while its parent was killed; what no signal reaches is left
        census.look()
        if not processes.kill(_own(census)) and not census.look() and not _own(census):
            break
    process.kill()
    process.wait()
    leftovers.unlink_unmapped(follower.segments.names, CLUSTER_SECONDS if os.environ.get("RAY_ADDRESS") else 0.0)


def _own(census: Census) -> list[Process]:
    return [one for one in census.members.values() if one.is_alive]


def _explain(status: Status, event: Event | None, follower: Follower, error: str, code: int | None) -> None:
    """Say why a run failed: what the watch saw, else the first error of the log."""
    if event is None:
        status.why = status.why or error or f"VeRL ended without a word: {told_exit(code)}"
        event = follower.ended(status.why, roster.speaks_of_a_loss(status.why))
        if event.rule != "dead":
            return
    said = f"; the log's first error: {error}" if event.rule == "dead" and error and error not in event.line else ""
    status.why, status.rule = event.line + said, event.rule


def keep_ray_logs(temporary: Path, folder: RunFolder) -> None:
    """Copy the logs of Ray's own processes (GCS, raylet, workers) into the run folder, if there was a local Ray."""
    for session in temporary.glob("ray/session_*"):
        if not session.is_symlink():
            with suppress(OSError):  # as many as the disk takes
                shutil.copytree(session / "logs", folder.path / "ray_logs", dirs_exist_ok=True, ignore=_not_files)


def _not_files(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if not (Path(folder, name).is_file() or Path(folder, name).is_dir())}
