"""What a run does, or how it ended: `python -m posttrain_verl.status run=NAME [--json]`.

Exit code 0, or 2 if there is no such run; how the run fares is in what it prints.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from posttrain_verl.run import named
from posttrain_verl.run.folder import RUNNING, RunFolder
from posttrain_verl.run.logtail import last_lines
from posttrain_verl.run.metrics import duration, parse, step_line

EVENTS = 5


def lines(folder: RunFolder, now: float) -> list[str]:
    """The state, the last step with its metrics, and the last events."""
    state, status = named.state_of(folder)
    of = f" of {status.total_steps}" if status.total_steps else ""
    shown = [f"{folder.path}", f"{state}{f': {status.why}' if status.why else ''}"]
    if state == RUNNING:
        stage = status.stage or "starting"
        shown.append(
            f"{stage}, for {duration(now - status.started)} (attempt {status.attempt}, pid {status.supervisor})"
        )
    elif state == named.LOST:
        shown.append(
            f"its supervisor (pid {status.supervisor}) is gone; python -m posttrain_verl.launch run={folder.path}"
        )
    elif status.ended:
        shown.append(f"ended {duration(now - status.ended)} ago, after {duration(status.ended - status.started)}")
    if status.last_step is not None:
        measured = last_lines(folder.metrics, 1) if folder.metrics.exists() else []
        shown += [f"step {status.last_step}{of}", *(step_line(*parse(line.encode())) for line in measured)]
    return shown + _events(folder)


def _events(folder: RunFolder) -> list[str]:
    if not folder.events.exists():
        return []
    events = [json.loads(line) for line in last_lines(folder.events, EVENTS)]
    return [f"{event['level']}: {event['rule']} at step {event['step']}: {event['saw']}" for event in events]


def show(folder: RunFolder, arguments: argparse.Namespace) -> int:
    print(named.as_json(folder) if arguments.json else "\n".join(lines(folder, time.time())))
    return 0


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="status.json and the state as it is")


if __name__ == "__main__":
    sys.exit(named.verb(show, "posttrain_verl.status", "what a run does, or how it ended", _add))
