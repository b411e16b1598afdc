"""What the verbs on an existing run share with `api`: its state, its next attempt, and its end."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict, replace

from posttrain_verl import clusters
from posttrain_verl.machine import processes
from posttrain_verl.run import prepare, record, resume, supervise
from posttrain_verl.run.folder import RunFolder, Status
from posttrain_verl.run.resume import ResumeRequest
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError

STOP_SECONDS = 30.0
LOST = "lost"  # status.json says that it runs, and nobody follows it any more


def current_state(folder: RunFolder, ask: bool = True) -> tuple[str, Status]:
    """The real state of a run, and its status. After its supervisor was killed, status.json still says that it runs.

    A cluster that has the run as a job is asked, unless `ask` is false.
    """
    status = folder.read_status()
    if jobs := clusters.jobs_of(status):
        status = jobs.refresh_status(folder) if ask else status
        return status.state, status
    return (LOST if record.is_lost(folder) else status.state), status


def state_as_json(folder: RunFolder, ask: bool = True) -> str:
    state, status = current_state(folder, ask)
    return json.dumps({"run": str(folder.path), **asdict(status), "state": state}, indent=2)


def prepare_resume(folder: RunFolder, asked: ResumeRequest) -> bool:
    """Check the next attempt of a run of this machine and write it; false where nothing is left to train.

    Raises:
        InputError: the run cannot be resumed. Its folder is as it was.
    """
    resume.require_resumable(folder, asked)
    with supervise.hold_folder(folder):
        watch, attempt = asked.watch(folder), resume.plan_attempt(folder, asked.verl(folder))
        prepare.check_attempt(folder, attempt.config, watch)
        if supervise.complete_run(folder, attempt.choice.step):
            log.info(f"step {attempt.choice.step} is reached, and the run ends there: nothing is left to train")
            return False
        resume.write_attempt(folder, attempt)
    return True


def stop_run(folder: RunFolder) -> tuple[bool, str]:
    """End a run and every process of it; return whether nothing of it is left, and what was done.

    The supervisor ends the run. What a run left whose supervisor is gone is cleared. A job is ended by its cluster.

    Raises:
        InputError: another machine has the run.
    """
    if jobs := clusters.jobs_of(folder.read_status()):
        return True, f"{jobs.stop(folder)}: {jobs.refresh_status(folder).why}"
    known = record.read_record(folder)
    if known is None:
        return True, f"{folder.path} does not run: {current_state(folder)[0]}"
    if not known.is_here:
        raise InputError("cannot stop", [record.elsewhere_problem(folder, known)])
    if known.is_supervised:
        with suppress(ProcessLookupError):
            os.kill(known.supervisor.pid, signal.SIGTERM)
        until = time.monotonic() + STOP_SECONDS  # for the supervisor to end the run and itself
        while known.is_supervised and time.monotonic() < until:
            time.sleep(0.1)
    known = record.read_record(folder) or replace(known, processes=[])
    if known.is_supervised and known.processes:  # it did not end in time
        processes.kill_processes([known.supervisor])
    left = record.clear_run(folder, known) if known.processes else ""
    did = f"stopped{f'; cleared {left}' if left else ''}; resume it: python -m posttrain_verl.resume run={folder.path}"
    return not known.alive, did
