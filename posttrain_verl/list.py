"""The verb `list`: the runs of a folder, newest first."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from rich.table import Column, Table

from posttrain_verl import run_verbs
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.output import format_duration
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import stdout
from posttrain_verl.verbs import List


def runs_table(folders: list[RunFolder], now: float) -> Table:
    shown = Table(Column("run", no_wrap=True), Column("state", no_wrap=True), "step", "started", "why", box=None)
    for folder in folders:
        state, status = run_verbs.current_state(folder, ask=False)
        step = f"{status.last_step or 0}{f'/{status.total_steps}' if status.total_steps else ''}"
        began = f"{format_duration(now - status.started)} ago" if status.started else ""
        shown.add_row(f"{folder.path.parent.name}/{folder.path.name}", state, step, began, status.why)
    return shown


def run(asked: List) -> int:
    """The verb without its command line."""
    home = Path(asked.runs_dir).expanduser().absolute()
    found = [RunFolder(config.parent) for config in home.glob("*/*/config.yaml")]
    found.sort(key=lambda folder: folder.read_status().started, reverse=True)
    if asked.as_json:
        print(json.dumps([json.loads(run_verbs.state_as_json(folder, ask=False)) for folder in found], indent=2))
    elif found:
        stdout().print(runs_table(found, time.time()))
    else:
        print(f"no runs in {home}")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(List, run))
