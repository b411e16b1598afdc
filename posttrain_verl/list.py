"""The runs of a folder: `python -m posttrain_verl.list [posttrain.runs_dir=DIR] [--json]`, newest first."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rich.table import Table

from posttrain_verl.console import stdout
from posttrain_verl.problem import InputError
from posttrain_verl.run import named
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.metrics import duration


def runs(runs_dir: str | Path) -> list[RunFolder]:
    """Every run below `runs_dir`, the newest first."""
    found = [RunFolder(config.parent) for config in Path(runs_dir).expanduser().absolute().glob("*/*/config.yaml")]
    return sorted(found, key=lambda folder: folder.read_status().started, reverse=True)


def table(folders: list[RunFolder], now: float) -> Table:
    shown = Table("run", "state", "step", "started", "why", box=None)
    for folder in folders:
        state, status = named.state_of(folder, ask=False)
        step = f"{status.last_step or 0}{f'/{status.total_steps}' if status.total_steps else ''}"
        began = f"{duration(now - status.started)} ago" if status.started else ""
        shown.add_row(f"{folder.path.parent.name}/{folder.path.name}", state, step, began, status.why)
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m posttrain_verl.list", description="the runs of a folder, newest first"
    )
    parser.add_argument("words", nargs="*", metavar="posttrain.runs_dir=DIR")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_intermixed_args()
    try:
        words = named.read(arguments.words, ("posttrain.runs_dir",))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    found = runs(words.get("posttrain.runs_dir", "runs"))
    if arguments.json:
        print(json.dumps([json.loads(named.as_json(folder, ask=False)) for folder in found], indent=2))
    else:
        stdout().print(table(found, time.time()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
