"""A sweep: `-m key=a,b other=c,d` runs one member for each combination, and ends with a table and a page of them.

Hydra's sweepers choose the members (all combinations, or Optuna's next trials). Each runs as its own process, since a process
holds one Ray and one run. Everything the sweep knows lies in `<runs_dir>/multirun/<id>/`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException

from hydra_plugins import posttrain_plugins
from posttrain_verl import compose, overrides, paths
from posttrain_verl.run.folder import DONE
from posttrain_verl.sweep import members, runner, table
from posttrain_verl.sweep.members import Member, Record, open_record, override_key, override_value
from posttrain_verl.sweep.runner import MemberRunner
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem


def run_sweep(verb: str, arguments: list[str], flags: list[str], write_page: Callable[[Path], Path]) -> int:
    """Run the sweep that the arguments ask for, print its table, and return the worst exit code of its members.

    `verb` is the module that each member runs, and `write_page` draws the sweep in a folder. `posttrain.sweep=<id>` resumes a
    sweep that did not end. What is done is kept, and without other overrides its own are taken.

    Raises:
        InputError: the overrides cannot be read, or the sweep does not exist or has other overrides.
    """
    record = open_record(verb, arguments, flags)
    try:
        _run_members(record)
    finally:
        if record.members:
            table.conclude_sweep(record)
            log.info(f"the page of the sweep: {write_page(record.folder)}")
    return worst_code(record)


def check_sweep(verb: str, arguments: list[str], flags: list[str]) -> int:
    """Check the members of the sweep that the arguments ask for, and return the worst exit code. Nothing is left on the disk.

    Raises:
        InputError: as `run_sweep`.
    """
    with TemporaryDirectory() as home:
        record = open_record(verb, arguments, flags, Path(home))
        _run_members(record)
        sound = [member for member in record.members if member.state == DONE]
        log.info(f"{len(sound)} of {len(record.members)} members can launch")
    return worst_code(record)


def worst_code(record: Record) -> int:
    return max((member.code or 0 for member in record.members), default=0)


def _run_members(record: Record) -> None:
    """Let Hydra's sweeper choose the members, and run each. Raises InputError."""
    asked = overrides.read_overrides(record.words, sweep=True)
    recipes = {("recipe", name): compose.find_file("recipe", name) for name in paths.names("recipe")}
    member_runner, at_once = MemberRunner(record), runner.count_at_once(record.words)
    given = [*asked.rewritten, *_hydra_overrides(record)]
    worst = -math.inf if override_value(given, "hydra.sweeper.direction") == "maximize" else math.inf

    def run_batch(folder: Path, several: list[list[str]]) -> list[JobReturn]:
        typed = [[asked.typed_option(each) for each in overrides] for overrides in several]
        return [_job_return(member, worst) for member in member_runner.run(typed, at_once)]

    task: Any = run_batch
    try:
        # `hydra.main` does the same with `sys.argv`, which is the caller's.
        with compose.own_hydra():
            compose.register_options(recipes | paths.own_options() | asked.files)
            hydra.initialize_config_dir(str(paths.conf_dir()), version_base=compose.VERSION_BASE)
            entry = GlobalHydra.instance().hydra
            assert entry is not None
            entry.multirun("launch", task, [overrides.as_sweep(override) for override in given])
    except HydraException as error:
        problem = Problem(" ".join(str(error).split()), "docs/sweeps.md shows sweeps")
        raise InputError("nothing to sweep", [problem]) from error


def _hydra_overrides(record: Record) -> list[str]:
    """What Hydra gets besides the user's overrides: the launcher, the folder, and how Optuna searches."""
    own = [f"hydra/launcher={posttrain_plugins.NAME}", f"hydra.sweep.dir={record.folder}"]
    if override_value(record.words, "hydra/sweeper") == "optuna":
        recipe = str(override_value(record.words, "recipe")).partition(",")[0]
        stage = compose.compose([f"recipe={recipe}"]).stage
        ours = {"hydra.sweeper.direction": "maximize" if stage.headline.rises else "minimize",
                "hydra.sweeper.sampler.seed": "1"}  # so that a resumed sweep proposes the same members  # fmt: skip
        if override_value(record.words, "hydra/sweeper/sampler"):
            ours.pop("hydra.sweeper.sampler.seed")  # not every sampler has one
        given = {override_key(override) for override in record.words}
        own += [f"{key}={value}" for key, value in ours.items() if key not in given]
    return own


def _job_return(member: Member, worst: float) -> JobReturn:
    """What a sweeper that searches learns about a member: what it measured, or the worst value if it is not done.

    A trial without a value would teach it nothing, so that it would propose what fails again. And the sweeper of
    hydra-optuna-sweeper 1.3.0 ends in an error when the last trial of a grid has no value.
    """
    result = members.read_result(Path(member.folder)) if member.state == DONE else None
    ended = JobReturn(status=JobStatus.COMPLETED)
    ended.return_value = result.value if result else worst
    return ended
