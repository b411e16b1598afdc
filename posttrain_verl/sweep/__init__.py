"""A sweep: `-m key=a,b other=c,d` runs one member for each combination, and ends with one table and plot of them.

Hydra's sweepers choose the members (all combinations, or Optuna's next trials). Each is a process of its own, since a
process holds one Ray and one run. Everything the sweep knows lies in `<runs_dir>/multirun/<id>/`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.utils import JobReturn, JobStatus

from hydra_plugins import posttrain_launcher
from posttrain_verl import compose, overrides, paths
from posttrain_verl.run.folder import DONE
from posttrain_verl.run.live import say
from posttrain_verl.sweep import results, room
from posttrain_verl.sweep.members import Members
from posttrain_verl.sweep.record import Member, Record, key_of, open_record, value_of

Batch = Callable[[Path, list[list[str]]], list[JobReturn]]


def run(verb: str, words: list[str], flags: list[str]) -> int:
    """Run the sweep that `words` ask for, print its table, and return the worst exit code of its members.

    `verb` is the module that each member runs. `posttrain.sweep=<id>` goes on with a sweep that did not end: what is
    done is kept; its own words are taken when no others are given.

    Raises:
        InputError: words that cannot be read, or a sweep that is not there or has other words.
    """
    record = open_record(verb, words, flags)
    asked = overrides.read(record.words, sweep=True)
    compose.register_recipes(overrides.names("recipe"))
    members, at_once = Members(record, report=say), room.at_once(record.words)

    hydra_words = [*asked.words, *_of_hydra(record)]
    worst = -math.inf if value_of(hydra_words, "hydra.sweeper.direction") == "maximize" else math.inf

    def batch(folder: Path, several: list[list[str]]) -> list[JobReturn]:
        return [_returned(member, worst) for member in members.run(several, at_once)]

    try:
        _through_hydra(batch, verb, hydra_words)
    finally:
        if record.members:
            from posttrain_verl.sweep import table

            table.conclude(record)
    return max((member.code or 0 for member in record.members), default=0)


def _through_hydra(batch: Batch, verb: str, words: list[str]) -> None:
    """Let Hydra's sweeper make the members and hand them to `batch`; it reads its words from sys.argv."""
    task: Any = batch
    entry = hydra.main(config_path=str(paths.conf_dir()), config_name="launch", version_base=compose.VERSION_BASE)(task)
    sys.argv = [verb, "--multirun", *map(overrides.as_sweep, words)]
    entry()


def _of_hydra(record: Record) -> list[str]:
    """What Hydra is told besides the user's words: the launcher, the folder, and how Optuna searches."""
    words = [f"hydra/launcher={posttrain_launcher.NAME}", f"hydra.sweep.dir={record.folder}"]
    if value_of(record.words, "hydra/sweeper") == "optuna":
        recipe = str(value_of(record.words, "recipe")).partition(",")[0]
        stage = compose.compose([f"recipe={recipe}"]).stage
        ours = {"hydra.sweeper.direction": "maximize" if stage == "rl" else "minimize",
                "hydra.sweeper.sampler.seed": "1"}  # so that going on with a sweep proposes the same members  # fmt: skip
        if value_of(record.words, "hydra/sweeper/sampler"):
            ours.pop("hydra.sweeper.sampler.seed")  # not every sampler has one
        given = {key_of(word) for word in record.words}
        words += [f"{key}={value}" for key, value in ours.items() if key not in given]
    return words


def _returned(member: Member, worst: float) -> JobReturn:
    """What a sweeper that searches learns of a member: what it measured, or the worst value if it is not done.

    A trial without a value would teach it nothing, so that it proposed what fails again; and the sweeper of
    hydra-optuna-sweeper 1.3.0 ends in an error when the last trial of a grid has none.
    """
    result = results.read(Path(member.folder)) if member.state == DONE else None
    ended = JobReturn(status=JobStatus.COMPLETED)
    ended.return_value = result.value if result else worst
    return ended
