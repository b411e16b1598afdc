"""The verbs on a run that is there: their command line, `run=NAME [posttrain.runs_dir=DIR] [--flag]`, and its state."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict

from posttrain_verl import options
from posttrain_verl.problem import InputError, Problem, exit_code
from posttrain_verl.run import record
from posttrain_verl.run.folder import RunFolder, Status

LOST = "lost"  # status.json says that it runs, and nobody follows it any more


Work = Callable[[RunFolder, argparse.Namespace], int]


def main(verb: str, parser: argparse.ArgumentParser, work: Work) -> int:
    """Read the words, find the run, do the work, and return the exit code."""
    arguments = parser.parse_intermixed_args()
    try:
        return exit_code(lambda: work(find(verb, arguments.words), arguments), getattr(arguments, "json", False))
    except BrokenPipeError:  # what reads the output has seen enough
        return 0


def find(verb: str, words: list[str]) -> RunFolder:
    """The run that the words name.

    Raises:
        InputError: a word that is no option, no run, or none of that name.
    """
    given, problems = options.read(verb, words, {"run": "", "posttrain.runs_dir": "runs"})
    if not given["run"]:
        problems.append(Problem("no run is named", "add run=NAME; python -m posttrain_verl.list shows them"))
    if problems:
        raise InputError("the command line cannot be read", problems)
    return RunFolder.find(given["run"], given["posttrain.runs_dir"])


def state_of(folder: RunFolder, ask: bool = True) -> tuple[str, Status]:
    """The state of a run as it is, which status.json of a run whose supervisor was killed does not say; and that status.

    A Ray cluster that has the run as a job is asked, unless `ask` is false.
    """
    status = folder.read_status()
    if status.job:
        from posttrain_verl.clusters import ray  # brings what composing needs, which no local run asks for

        status = ray.refresh(folder) if ask else status
        return status.state, status
    return (LOST if record.is_lost(folder) else status.state), status


def as_json(folder: RunFolder, ask: bool = True) -> str:
    state, status = state_of(folder, ask)
    return json.dumps({"run": str(folder.path), **asdict(status), "state": state}, indent=2)
