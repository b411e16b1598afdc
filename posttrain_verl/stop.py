"""The verb `stop`: the supervisor of a run ends its process tree. Where it is gone, the run's record says what to clear."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace

from posttrain_verl import clusters, run_verbs
from posttrain_verl.machine import processes
from posttrain_verl.run import record
from posttrain_verl.run.folder import RUNNING, RunFolder
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Stop

STOP_SECONDS = 30.0
HOW = "with `stop`"


def run(asked: Stop) -> int:
    """The verb without its command line. Raises InputError."""
    folder = RunFolder.find(asked.run, asked.runs_dir)
    if jobs := clusters.jobs_of(folder.read_status()):
        return stop_job(folder, jobs)
    known = record.read_record(folder)
    if known is None:
        print(f"{folder.path} does not run: {run_verbs.current_state(folder)[0]}")
        return 0
    if not known.is_here:
        raise InputError("cannot stop", [record.elsewhere_problem(folder, known)])
    if known.is_supervised:
        with suppress(OSError):  # a full disk, or another's folder, is not in the way of a stop
            folder.note_stop(HOW)
        with suppress(ProcessLookupError):
            os.kill(known.supervisor.pid, signal.SIGTERM)
        until = time.monotonic() + STOP_SECONDS  # for the supervisor to end the run and itself
        while known.is_supervised and time.monotonic() < until:
            time.sleep(0.1)
    known = record.read_record(folder) or replace(known, processes=[])
    if known.is_supervised and known.processes:  # it did not end in time
        processes.kill_processes([known.supervisor])
    left = record.clear_run(folder, known) if known.processes else ""
    print(f"stopped{f'; cleared {left}' if left else ''}; {resume_hint(folder)}")
    return int(bool(known.alive))


def stop_job(folder: RunFolder, jobs: clusters.Jobs) -> int:
    """End a run that is a job of a cluster, and return the exit code: 1 where it still runs."""
    status = jobs.refresh_status(folder)
    if status.state != RUNNING:
        print(f"{folder.path} does not run: {status.state}{f': {status.why}' if status.why else ''}")
        return 0
    folder.note_stop(HOW)
    jobs.stop(folder)
    status = jobs.refresh_status(folder)
    if status.state == RUNNING:
        print(f"{folder.path} was asked to end and still runs; python -m posttrain_verl.status run={folder.path}")
        return 1
    print(f"{status.state}{f': {status.why}' if status.why else ''}; {resume_hint(folder)}")
    return 0


def resume_hint(folder: RunFolder) -> str:
    return f"resume it: python -m posttrain_verl.resume run={folder.path}"


if __name__ == "__main__":
    sys.exit(command_line.main(Stop, run))
