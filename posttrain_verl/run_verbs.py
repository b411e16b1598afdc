"""What the verbs on an existing run share with `api`: its state, its next attempt, and its end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace

from posttrain_verl import clusters
from posttrain_verl.machine import processes
from posttrain_verl.run import prepare, record, resume, supervise
from posttrain_verl.run.folder import RUNNING, RunFolder, Status
from posttrain_verl.run.resume import ResumeRequest
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError

STOP_SECONDS = 30.0
HOW = "with `stop`"  # a run was stopped, as its reason says
LOST = "lost"  # status.json says that it runs, and nobody follows it any more


def current_state(folder: RunFolder, ask: bool = True) -> tuple[str, Status]:
    """The real state of a run, and its status. After its supervisor was killed, status.json still says that it runs.

    A cluster that has the run as a job is asked, unless `ask` is false.
    """
    status = folder.read_status()
    if jobs := clusters.jobs_of(status):
        status = jobs.refresh_status(folder) if ask else status
        return status.state, status
    known = record.read_record(folder)
    if not folder.status.exists() and known and known.is_here and known.is_supervised:  # which writes the file again
        return RUNNING, replace(status, state=RUNNING, ended=None, supervisor=known.supervisor.pid)
    return (LOST if record.is_lost(folder) else status.state), status


def asked_states(folders: Iterable[RunFolder]) -> Iterator[tuple[RunFolder, str, Status]]:
    """Each run with its real state and its status. A cluster that does not answer is asked once, and named as the reason."""
    silent: set[str] = set()
    for folder in folders:
        job = folder.read_status().job
        address = job.get("address", "") if job else None
        try:
            state, status = current_state(folder, ask=address not in silent)
        except (InputError, RuntimeError, OSError):
            if address is None:
                raise
            silent.add(address)
            state, status = current_state(folder, ask=False)
        if address in silent and state == RUNNING:
            status = replace(status, why=f"{address} does not answer; this is what was seen last")
        yield folder, state, status


def state_as_json(folder: RunFolder, state: str, status: Status) -> str:
    return json.dumps({"run": str(folder.path), **asdict(status), "state": state}, indent=2)


def prepare_resume(folder: RunFolder, asked: ResumeRequest) -> bool:
    """Check the next attempt of a run of this machine and write it; false where nothing is left to train.

    Raises:
        InputError: the run cannot be resumed. Its folder is as it was.
    """
    resume.require_resumable(folder, asked)
    with supervise.hold_folder(folder):
        watch, attempt = asked.watch(folder), resume.plan_attempt(folder, asked.verl(folder))
        prepare.check_attempt(folder, attempt.config, watch, asked.own)
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
        return _stop_job(folder, jobs)
    known = record.read_record(folder)
    if known is None:
        return True, f"{folder.path} does not run: {current_state(folder)[0]}"
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
    return not known.alive, f"stopped{f'; cleared {left}' if left else ''}; {_resume_hint(folder)}"


def _stop_job(folder: RunFolder, jobs: clusters.Jobs) -> tuple[bool, str]:
    """As `stop_run`, for a run that is a job of a cluster."""
    status = jobs.refresh_status(folder)
    if status.state != RUNNING:
        return True, f"{folder.path} does not run: {status.state}{f': {status.why}' if status.why else ''}"
    folder.note_stop(HOW)
    jobs.stop(folder)
    status = jobs.refresh_status(folder)
    if status.state == RUNNING:
        return (
            False,
            f"{folder.path} was asked to end and still runs; python -m posttrain_verl.status run={folder.path}",
        )
    return True, f"{status.state}{f': {status.why}' if status.why else ''}; {_resume_hint(folder)}"


def _resume_hint(folder: RunFolder) -> str:
    return f"resume it: python -m posttrain_verl.resume run={folder.path}"
