"""The verb `status`: what a run does, or how it ended."""

from __future__ import annotations

import json
import sys
import time
from statistics import fmean
from typing import Any

from posttrain_verl import run_verbs, verbs
from posttrain_verl.run.digest import event_line
from posttrain_verl.run.folder import RUNNING, RunFolder, Status, worked_seconds
from posttrain_verl.run.output import format_duration, last_records, parse_line, step_line, tokens_per_second
from posttrain_verl.terminal import command_line
from posttrain_verl.verl.metrics import STEP_SECONDS

LAST_EVENTS = 5
LAST_STEPS = 10  # by which the speed is measured


def status_lines(folder: RunFolder, now: float) -> list[str]:
    """The state, the last step with its metrics, and the last events."""
    [(_, state, status)] = run_verbs.asked_states([folder])
    attempts = folder.read_attempts(status)
    worked = format_duration(worked_seconds(attempts, now))
    shown = [f"{folder.path}", f"{state}{f': {status.why}' if status.why else ''}"]
    if state == RUNNING:
        since = format_duration(now - status.started)
        before = f"; {worked} in all" if len(attempts) > 1 else ""
        who = f"job {status.job['id']} at {status.job['address']}" if status.job else f"pid {status.supervisor}"
        shown.append(f"{status.stage or 'starting'}; running for {since} (attempt {status.attempt}, {who}){before}")
    elif state == run_verbs.LOST:
        remedy = f"python -m posttrain_verl.launch run={folder.path} resumes the run"
        shown.append(f"its supervisor (pid {status.supervisor}) is gone; {remedy}")
    elif status.ended:
        ago = format_duration(max(0.0, now - status.ended))
        count = f" of {len(attempts)} attempts" if len(attempts) > 1 else ""
        shown.append(f"ended {ago} ago, after {worked}{count}")
    if status.last_step is not None:
        records = [parse_line(line) for line in last_records(folder.metrics, LAST_STEPS)]
        shown.append(_progress(status, records))
        shown += [step_line(*record) for record in records[-1:]]
    return shown + [event_line(json.loads(line)) for line in last_records(folder.events, LAST_EVENTS)]


def _progress(status: Status, records: list[tuple[int, dict[str, Any]]]) -> str:
    """The step of how many, and of a run that trains its speed and when it will be done, by the last steps."""
    seconds = [measured[STEP_SECONDS] for _, measured in records if measured.get(STEP_SECONDS)]
    pace = fmean(seconds) if seconds else None
    parts = [f"step {status.last_step}{f' of {status.total_steps}' if status.total_steps else ''}"]
    speeds = [speed for _, measured in records if (speed := tokens_per_second(measured, pace))]
    parts += [f"{speeds[-1]:.0f} tokens/s"] if speeds else []
    if pace and status.state == RUNNING and status.total_steps and status.last_step is not None:
        parts.append(f"ETA {format_duration(pace * (status.total_steps - status.last_step))}")
    return ", ".join(parts)


def run(asked: verbs.Status) -> int:
    """The verb without its command line. Raises InputError."""
    folder = RunFolder.find(asked.run, asked.runs_dir)
    if asked.as_json:
        [seen] = run_verbs.asked_states([folder])
        print(run_verbs.state_as_json(*seen))
    else:
        print("\n".join(status_lines(folder, time.time())))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(verbs.Status, run))
