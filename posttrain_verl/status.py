"""The verb `status`: what a run does, or how it ended."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from posttrain_verl import run_verbs, verbs
from posttrain_verl.run.folder import RUNNING, RunFolder, worked_seconds
from posttrain_verl.run.output import format_duration, is_whole_line, last_lines, parse_line, step_line
from posttrain_verl.terminal import command_line

LAST_EVENTS = 5


def status_lines(folder: RunFolder, now: float) -> list[str]:
    """The state, the last step with its metrics, and the last events."""
    state, status = run_verbs.current_state(folder)
    attempts = folder.read_attempts(status)
    worked = format_duration(worked_seconds(attempts, now))
    shown = [f"{folder.path}", f"{state}{f': {status.why}' if status.why else ''}"]
    if state == RUNNING:
        since = format_duration(now - status.started)
        before = f"; {worked} in all" if len(attempts) > 1 else ""
        shown.append(
            f"{status.stage or 'starting'}; running for {since} (attempt {status.attempt}, pid {status.supervisor}){before}"
        )
    elif state == run_verbs.LOST:
        remedy = f"python -m posttrain_verl.launch run={folder.path} resumes the run"
        shown.append(f"its supervisor (pid {status.supervisor}) is gone; {remedy}")
    elif status.ended:
        ago = format_duration(max(0.0, now - status.ended))
        count = f" of {len(attempts)} attempts" if len(attempts) > 1 else ""
        shown.append(f"ended {ago} ago, after {worked}{count}")
    if status.last_step is not None:
        shown.append(f"step {status.last_step}{f' of {status.total_steps}' if status.total_steps else ''}")
        # Two lines, because the last one may be incomplete.
        shown += [step_line(*parse_line(line)) for line in _last_records(folder.metrics, 2)[-1:]]
    for event in map(json.loads, _last_records(folder.events, LAST_EVENTS)):
        shown.append(f"{event['level']}: {event['rule']} at step {event['step']}: {event['saw']}")
    return shown


def _last_records(file: Path, count: int) -> list[bytes]:
    """The whole ones among the last lines of a file."""
    lines = last_lines(file, count) if file.exists() else []
    return [line for line in (f"{text}\n".encode() for text in lines) if is_whole_line(line)]


def run(asked: verbs.Status) -> int:
    """The verb without its command line. Raises InputError."""
    folder = RunFolder.find(asked.run, asked.runs_dir)
    print(run_verbs.state_as_json(folder) if asked.as_json else "\n".join(status_lines(folder, time.time())))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(verbs.Status, run))
