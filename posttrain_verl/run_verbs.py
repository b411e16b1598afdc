"""What the verbs on an existing run share: the state of the run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace

from posttrain_verl import clusters
from posttrain_verl.run import record
from posttrain_verl.run.folder import RUNNING, RunFolder, Status
from posttrain_verl.terminal.problem import InputError

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
