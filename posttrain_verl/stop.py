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
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Stop

STOP_SECONDS = 30.0


def run(asked: Stop) -> int:
    """The verb without its command line. Raises InputError."""
    folder = RunFolder.find(asked.run, asked.runs_dir)
    if jobs := clusters.jobs_of(folder.read_status()):
        print(f"{jobs.stop(folder)}: {jobs.refresh_status(folder).why}")
        return 0
    known = record.read_record(folder)
    if known is None:
        print(f"{folder.path} does not run: {run_verbs.current_state(folder)[0]}")
        return 0
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
    print(f"stopped{f'; cleared {left}' if left else ''}; resume it: python -m posttrain_verl.resume run={folder.path}")
    return int(bool(known.alive))


if __name__ == "__main__":
    sys.exit(command_line.main(Stop, run))
