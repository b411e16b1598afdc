"""What the verbs on an existing run share: the state of the run."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from posttrain_verl import clusters
from posttrain_verl.run import record
from posttrain_verl.run.folder import RUNNING, RunFolder, Status

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


def state_as_json(folder: RunFolder, ask: bool = True) -> str:
    state, status = current_state(folder, ask)
    return json.dumps({"run": str(folder.path), **asdict(status), "state": state}, indent=2)
