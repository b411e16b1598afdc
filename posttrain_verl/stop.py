"""End a run: `python -m posttrain_verl.stop run=NAME`. Its supervisor ends every process of it and writes status.json.

A run whose supervisor is gone is cleared by the ids in its record. Exit code 0 once nothing runs, 1 if something will not end.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace

from posttrain_verl import options
from posttrain_verl.problem import InputError
from posttrain_verl.run import named, processes, record
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.record import Record

SECONDS = 30.0


def stop(folder: RunFolder, arguments: argparse.Namespace) -> int:
    if folder.read_status().job:
        return _stop_job(folder)
    known = record.read(folder)
    if known is None:
        print(f"{folder.path} does not run: {named.state_of(folder)[0]}")
        return 0
    if not known.is_here:
        raise InputError("cannot stop", [record.elsewhere(folder, known)])
    if known.is_supervised:
        _ask(known)
    known = record.read(folder) or replace(known, processes=[])
    if known.is_supervised and known.processes:  # it did not end in time
        processes.kill([known.supervisor])
    left = record.clear(folder, known) if known.processes else ""
    print(f"stopped{f'; cleared {left}' if left else ''}")
    return int(bool(known.alive))


def _stop_job(folder: RunFolder) -> int:
    from posttrain_verl.clusters import ray

    print(f"{ray.of_folder(folder).stop()}: {ray.refresh(folder).why}")
    return 0


def _ask(known: Record) -> None:
    """Interrupt the supervisor, and wait until it has ended the run and itself."""
    with suppress(ProcessLookupError):
        os.kill(known.supervisor.pid, signal.SIGTERM)
    until = time.monotonic() + SECONDS
    while known.is_supervised and time.monotonic() < until:
        time.sleep(0.1)


def main() -> int:
    """The verb."""
    return named.main("stop", options.parser("stop", __doc__), stop)


if __name__ == "__main__":
    sys.exit(main())
