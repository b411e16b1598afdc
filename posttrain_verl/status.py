"""What a run does, or how it ended: `python -m posttrain_verl.status run=NAME [--json]`.

Exit code 0, or 2 if there is no such run; how the run fares is in what it prints.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from posttrain_verl import options
from posttrain_verl.run import named
from posttrain_verl.run.folder import RUNNING, RunFolder
from posttrain_verl.run.logtail import last_lines
from posttrain_verl.run.metrics import duration, is_whole, parse, step_line

EVENTS = 5


def lines(folder: RunFolder, now: float) -> list[str]:
    """The state, the last step with its metrics, and the last events."""
    state, status = named.state_of(folder)
    of = f" of {status.total_steps}" if status.total_steps else ""
    shown = [f"{folder.path}", f"{state}{f': {status.why}' if status.why else ''}"]
    if state == RUNNING:
        stage = status.stage or "starting"
        since = duration(now - status.started)
        shown.append(f"{stage}, for {since} (attempt {status.attempt}, pid {status.supervisor})")
    elif state == named.LOST:
        goes_on = f"python -m posttrain_verl.launch run={folder.path} goes on with it"
        shown.append(f"its supervisor (pid {status.supervisor}) is gone; {goes_on}")
    elif status.ended:
        shown.append(
            f"ended {duration(max(0.0, now - status.ended))} ago, after {duration(status.ended - status.started)}"
        )
    if status.last_step is not None:
        measured = _records(folder.metrics, 2)[-1:]  # the last line may be about to be written
        shown += [f"step {status.last_step}{of}", *(step_line(*parse(line)) for line in measured)]
    return shown + _events(folder)


def _events(folder: RunFolder) -> list[str]:
    events = map(json.loads, _records(folder.events, EVENTS))
    return [f"{event['level']}: {event['rule']} at step {event['step']}: {event['saw']}" for event in events]


def _records(file: Path, count: int) -> list[bytes]:
    """Those of the last lines that are whole."""
    lines = last_lines(file, count) if file.exists() else []
    return [line for line in (f"{text}\n".encode() for text in lines) if is_whole(line)]


def show(folder: RunFolder, arguments: argparse.Namespace) -> int:
    print(named.as_json(folder) if arguments.json else "\n".join(lines(folder, time.time())))
    return 0


def main() -> int:
    """The verb."""
    parser = options.parser("status", __doc__)
    parser.add_argument("--json", action="store_true", help="status.json and the state as it is")
    return named.main("status", parser, show)


if __name__ == "__main__":
    sys.exit(main())
