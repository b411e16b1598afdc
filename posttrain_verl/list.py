"""The runs of a folder: `python -m posttrain_verl.list [posttrain.runs_dir=DIR] [--json]`, newest first."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from rich.table import Column, Table

from posttrain_verl import options
from posttrain_verl.console import stdout
from posttrain_verl.problem import InputError, Problem, exit_code
from posttrain_verl.run import named
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.metrics import duration


def runs(home: Path) -> list[RunFolder]:
    """Every run below `home`, the newest first."""
    found = [RunFolder(config.parent) for config in home.absolute().glob("*/*/config.yaml")]
    return sorted(found, key=lambda folder: folder.read_status().started, reverse=True)


def table(folders: list[RunFolder], now: float) -> Table:
    shown = Table(Column("run", no_wrap=True), Column("state", no_wrap=True), "step", "started", "why", box=None)
    for folder in folders:
        state, status = named.state_of(folder, ask=False)
        step = f"{status.last_step or 0}{f'/{status.total_steps}' if status.total_steps else ''}"
        began = f"{duration(now - status.started)} ago" if status.started else ""
        shown.add_row(f"{folder.path.parent.name}/{folder.path.name}", state, step, began, status.why)
    return shown


def main() -> int:
    """The verb."""
    parser = options.parser("list", __doc__)
    parser.add_argument("--json", action="store_true", help="status.json of each, and the state as it is")
    arguments = parser.parse_intermixed_args()
    return exit_code(lambda: show(arguments.words, arguments.json), arguments.json)


def show(words: list[str], as_json: bool) -> int:
    """The verb without its command line. Raises InputError."""
    given, problems = options.read("list", words, {"posttrain.runs_dir": "runs"})
    home = Path(given["posttrain.runs_dir"]).expanduser()
    if words and not home.is_dir():
        problems.append(Problem(f"{home} is no folder", "name the folder of the runs: posttrain.runs_dir=runs"))
    if problems:
        raise InputError("the command line cannot be read", problems)
    found = runs(home)
    if as_json:
        print(json.dumps([json.loads(named.as_json(folder, ask=False)) for folder in found], indent=2))
    elif found:
        stdout().print(table(found, time.time()))
    else:
        print(f"no runs in {home.absolute()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
