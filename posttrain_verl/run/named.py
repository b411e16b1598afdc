"""The command line of the verbs on a run: `run=NAME [posttrain.runs_dir=DIR] [--flag]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict

from posttrain_verl.problem import InputError, Problem
from posttrain_verl.run import record
from posttrain_verl.run.folder import RunFolder, Status

LOST = "lost"  # status.json says that it runs, and nobody follows it any more


def verb(work: Callable[[RunFolder, argparse.Namespace], int], module: str, about: str,
         add: Callable[[argparse.ArgumentParser], None] = lambda parser: None) -> int:  # fmt: skip
    """Read the words, find the run, do the work, and return the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument(
        "words", nargs="+", metavar="run=NAME", help="a folder, recipe/id, or id; posttrain.runs_dir=DIR"
    )
    add(parser)
    arguments = parser.parse_intermixed_args(sys.argv[1:])
    try:
        words = read(arguments.words)
        return work(RunFolder.find(words["run"], words.get("posttrain.runs_dir", "runs")), arguments)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # what reads the output has seen enough
        return 0


def read(words: list[str], known: tuple[str, ...] = ("run", "posttrain.runs_dir")) -> dict[str, str]:
    """The words as a dict.

    Raises:
        InputError: a word that is none of `known`, or no run.
    """
    pairs = dict(word.partition("=")[::2] for word in words)
    problems = [
        Problem(f"'{key}' is no word of this verb", f"there are: {', '.join(known)}") for key in pairs.keys() - known
    ]
    if "run" in known and not pairs.get("run"):
        problems.append(Problem("no run is named", "add run=NAME; python -m posttrain_verl.list shows them"))
    if problems:
        raise InputError("the command line cannot be read", problems)
    return pairs


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
