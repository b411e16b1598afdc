"""The verb `list`: the runs of a folder, newest first."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from posttrain_verl import paths, run_verbs
from posttrain_verl.run.folder import RunFolder, worked_seconds
from posttrain_verl.run.output import format_duration, last_records, parse_line
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import stdout
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import List
from posttrain_verl.verl.metrics import HEADLINES

SHOWN = 5  # folders of other users
LAST_LINES = 5  # of metrics.jsonl, where a validation has a line of its own


def runs_table(folders: list[RunFolder], home: Path, now: float) -> Table:
    """A row a run, by its path below `home`. The overrides are those that say what is special about the run. The last column is
    cut to its width."""
    overrides, why = (
        Column(name, no_wrap=True, overflow="ellipsis", ratio=1) for name in ("overrides", "stage, or why")
    )
    shown = Table(Column("run", no_wrap=True), Column("state", no_wrap=True), "step", "measured", "worked", "started", "model",
                  overrides, why, box=None, expand=True)  # fmt: skip
    for folder, state, status in run_verbs.asked_states(folders):
        try:
            plan = folder.read_plan()
        except InputError:  # a run that was damaged is listed like any other
            plan = {}
        step = f"{status.last_step or 0}{f'/{status.total_steps}' if status.total_steps else ''}"
        began = f"{format_duration(now - status.started)} ago" if status.started else ""
        worked = format_duration(worked_seconds(folder.read_attempts(status), now)) if status.started else ""
        own = [
            each
            for each in (
                override.lstrip("+") for override in (*plan.get("overrides", ()), *plan.get("resumed_with", ()))
            )
            if not each.startswith(("recipe=", "base_model=", "posttrain.", "cluster=", "address="))
        ]
        last = (status.why or status.stage).partition("\n")[0]
        shown.add_row(str(folder.path.relative_to(home)), state, step, _measured(folder), worked, began,
                      str(plan.get("base_model", "")), " ".join(own), last)  # fmt: skip
    return shown


def _measured(folder: RunFolder) -> str:
    """The last value of what says how the run goes, e.g. "reward 0.52"."""
    found: dict[str, Any] = {}
    for _, measured in map(parse_line, last_records(folder.metrics, LAST_LINES)):
        found |= {key: value for key, value in measured.items() if isinstance(value, int | float)}
    return next((f"{metric.short} {found[metric.key]:.4g}" for metric in HEADLINES if metric.key in found), "")


def run(asked: List) -> int:
    """The verb without its command line."""
    home = Path(asked.runs_dir).expanduser().absolute()
    closed = paths.closed_runs(home)
    found = [RunFolder(folder) for folder in paths.run_folders(home) if folder not in closed]
    found.sort(key=lambda folder: folder.read_status().started, reverse=True)
    if asked.as_json:
        print(
            json.dumps([json.loads(run_verbs.state_as_json(*each)) for each in run_verbs.asked_states(found)], indent=2)
        )
    elif found:
        stdout().print(runs_table(found, home, time.time()))
    else:
        print(f"no runs in {home}")
    if closed:
        names = ", ".join(str(each.relative_to(home)) for each in closed[:SHOWN]) + (
            " ..." if len(closed) > SHOWN else ""
        )
        print(f"{len(closed)} more cannot be read by you: {names}", file=sys.stderr if asked.as_json else sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(List, run))
