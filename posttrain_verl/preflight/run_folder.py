"""The run folder: a launch never writes into a folder that another launch has, and its metrics are kept there."""

from __future__ import annotations

import os
from collections.abc import Iterator

from posttrain_verl.compose import Composed
from posttrain_verl.preflight import machine
from posttrain_verl.problem import Problem


def check(composed: Composed) -> list[Problem]:
    """A problem if the run's folder cannot be made, names a run that exists, or would get no metrics.jsonl."""
    return [*_unwritable(composed), *_taken(composed), *_metrics(composed)]


def _unwritable(composed: Composed) -> Iterator[Problem]:
    home = composed.run_dir().parent
    place = next(one for one in (home, *home.parents) if os.path.exists(one))  # also where looking is not allowed
    if machine.is_here(composed) and not os.access(place, os.W_OK | os.X_OK):
        yield Problem(f"{place} cannot be written", "set posttrain.runs_dir to a folder of your own")


def _taken(composed: Composed) -> Iterator[Problem]:
    folder = composed.run_dir()
    if composed.posttrain.run_id is not None and folder.exists():
        remedy = (
            f"choose another posttrain.run_id, or go on with that run: python -m posttrain_verl.launch run={folder}"
        )
        yield Problem(f"{folder} exists already", remedy)


def _metrics(composed: Composed) -> Iterator[Problem]:
    """The file logger of VeRL writes them; watch, status, resume and report read them."""
    logger = composed.verl.trainer.logger
    loggers = [logger] if isinstance(logger, str) else list(logger or [])
    if "file" not in loggers:
        what = f"trainer.logger=[{','.join(map(str, loggers))}] leaves out file: the watch would be blind, and no resume possible"
        yield Problem(what, f"trainer.logger=[{','.join(map(str, [*loggers, 'file']))}]")
