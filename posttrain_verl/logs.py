"""The log of a run: `python -m posttrain_verl.logs run=NAME [-f] [-n LINES]`; `-f` goes on until the run ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from posttrain_verl import options
from posttrain_verl.run import named
from posttrain_verl.run.folder import RUNNING, RunFolder
from posttrain_verl.run.logtail import follow, last_lines


def show(folder: RunFolder, arguments: argparse.Namespace) -> int:
    if folder.read_status().job and _show_job(folder, arguments):
        return 0
    if not folder.log.exists():
        print(f"{folder.log} does not exist yet", file=sys.stderr)
        return 1
    for line in last_lines(folder.log, arguments.lines):
        print(line)
    if arguments.follow:
        for line in follow(folder.log, _ended(folder)):
            print(line, flush=True)
        state, status = named.state_of(folder)
        print(f"{state}{f': {status.why}' if status.why else ''}", file=sys.stderr)
    return 0


def _show_job(folder: RunFolder, arguments: argparse.Namespace) -> bool:
    """What the launch on the Ray cluster prints, and whether it is still to be had there; what is here is older."""
    from posttrain_verl.clusters import ray

    running, shown = ray.of_folder(folder), False
    for line in running.follow() if arguments.follow else running.logs().splitlines()[-arguments.lines :]:
        print(line, flush=True)
        shown = True
    return shown


def _ended(folder: RunFolder) -> Iterator[bool]:
    while True:
        yield named.state_of(folder)[0] != RUNNING


def main() -> int:
    """The verb."""
    parser = options.parser("logs", __doc__)
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is written, until the run ends")
    parser.add_argument("-n", "--lines", type=int, default=50, help="so many of the last lines (50)")
    return named.main("logs", parser, show)


if __name__ == "__main__":
    sys.exit(main())
