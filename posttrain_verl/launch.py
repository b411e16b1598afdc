"""Run a recipe: `python -m posttrain_verl.launch recipe=math_grpo [key=value ...]`.

Composes VeRL's config, says what the hardware changed, prepares the embedded model and data where they are missing, checks
everything that can be checked, and runs VeRL on Ray. Everything the run knows lies in its run folder.

`launch run=NAME [key=value ...]` goes on with a run from its last whole checkpoint; `-m key=a,b` runs a sweep.
Exit codes: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import OmegaConf

import data_prep
from posttrain_verl import base_models, cli, preflight
from posttrain_verl.clusters import ray
from posttrain_verl.clusters import submit as clusters
from posttrain_verl.compose import Composed
from posttrain_verl.plan import summary
from posttrain_verl.problem import InputError, Problem, exit_code
from posttrain_verl.run import attempts, interrupts, resume, session
from posttrain_verl.run.folder import RunFolder, Status
from posttrain_verl.run.live import say


def launch(composed: Composed) -> Status:
    """Run one composed recipe to its end and return its status.

    Raises:
        InputError: what was asked for cannot be launched; nothing was started.
    """
    return session.conduct(begin(composed), say)


def begin(composed: Composed) -> RunFolder:
    """Check and prepare a launch, and return its run folder, complete but for the run.

    Raises:
        InputError: what was asked for cannot be launched; nothing is left.
    """
    for line in introduction(composed):
        say(line)
    return set_up(composed)


def set_up(composed: Composed) -> RunFolder:
    """As `begin`, without the introduction."""
    preflight.require(preflight.check(composed), composed)
    folder = new_folder(composed)
    with removed_on_failure(folder):
        prepare(composed, folder)
    say(f"run folder {folder.path}")
    return folder


def prepare(composed: Composed, folder: RunFolder) -> None:
    """Build what is missing, check all there is, and write what the run is to be into its folder.

    Raises:
        InputError: a check failed.
    """
    model = prepare_model(composed)
    prepare_data(composed)
    report = preflight.run(composed, skip=("run_folder",))
    preflight.require(report.problems, composed)
    folder.write_config(composed.for_run(folder.path, model=model))
    folder.write_plan(plan_of(composed, model))
    report.write(folder.path)
    for line in report.lines():
        say(line)


def go_on(words: list[str]) -> int:
    """`launch run=NAME [key=value ...]`: go on with a run from its last whole checkpoint, and return the exit code.

    Its config is that of the run folder, not composed again; keys of VeRL and of `posttrain.watch` can be given anew.
    A run that was a job of a Ray cluster goes on there, as another job.

    Raises:
        InputError: there is no such run, or nothing to go on from.
    """
    asked = resume.read_words(words)
    folder = RunFolder.find(asked.run, asked.runs_dir)
    if folder.read_status().job:
        return ray.go_on(folder, asked, say)
    resume.require_resumable(folder, asked)
    with session.held(folder, say):
        asked.change_plan(folder)
        choice = resume.prepare(folder, say, asked.verl(folder))
    if attempts.is_complete(folder, choice.step):
        say(session.conclusion(folder, attempts.complete(folder)))
        return 0
    return session.hand_over(folder, asked.detach)


@contextmanager
def removed_on_failure(folder: RunFolder) -> Iterator[None]:
    """A launch that ends before it starts anything leaves no run behind."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder.path)
        raise


def introduction(composed: Composed) -> list[str]:
    """The first lines of a launch: the recipe, the hardware, and each key it changed with the reason."""
    hardware = composed.posttrain.hardware.name
    lines = [f"recipe {composed.recipe} ({composed.stage}), model {composed.posttrain.base_model.name}, "
             f"mix {composed.posttrain.mix.name}, hardware {hardware}"]  # fmt: skip
    if hardware == "cpu":
        why = composed.machine.reason if composed.machine else "hardware=cpu"
        lines.append(f"{why}: this runs the real VeRL, vLLM and Ray on the CPU backend. It changed:")
    elif composed.changes:
        lines.append(f"hardware={hardware} changed:")
    return lines + [f"  {change.key}: {change.old} -> {change.new} ({change.why})" for change in composed.changes]


def is_local(composed: Composed) -> bool:
    """Whether the model is on this machine, so that no process needs to ask a hub."""
    return base_models.is_embedded(composed.model) or Path(composed.model).is_dir()


def prepare_model(composed: Composed) -> Path | None:
    """The folder of an embedded or local model, built first if need be; None for a model of the hub."""
    return base_models.ensure(composed.model, say) if is_local(composed) else None


def prepare_data(composed: Composed) -> None:
    """Build the mix if it is one that needs no network and its Parquet is not there yet."""
    mix: Any = OmegaConf.to_container(composed.posttrain.mix)
    if not preflight.data.is_offline(composed) or data_prep.is_complete(composed.data_dir, mix):
        return
    composed.data_dir.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(composed.data_dir.with_name(f".{composed.data_dir.name}.lock")):  # of launches at once one builds
        if not data_prep.is_complete(composed.data_dir, mix):
            say(f"building the mix {mix['name']} in {composed.data_dir}")
            data_prep.build(mix, composed.data_dir, progress=say)


def new_folder(composed: Composed) -> RunFolder:
    path = composed.run_dir()
    try:
        return RunFolder.create(path)
    except FileExistsError:
        problem = Problem(f"{path} holds a run already", "choose another posttrain.run_id, or leave it out")
        raise InputError(f"recipe '{composed.recipe}' cannot launch", [problem]) from None


def plan_of(composed: Composed, model: Path | None) -> dict[str, object]:
    """What plan.json holds: what was asked for and what the hardware made of it."""
    return {
        "recipe": composed.recipe,
        "stage": composed.stage,
        "total_steps": preflight.schedule.steps(composed),
        "overrides": composed.overrides,
        "hardware": composed.posttrain.hardware.name,
        "mix": composed.posttrain.mix.name,
        "base_model": composed.posttrain.base_model.name,
        "model": str(model or composed.model),
        "local_model": is_local(composed),
        "watch": OmegaConf.to_container(composed.posttrain.watch),
        "changes": [vars(change) for change in composed.changes],
        **summary.of(composed),
    }


def main() -> int:
    interrupts.as_ctrl_c()
    if any(word.startswith("run=") for word in sys.argv) and not {"-h", "--help"} & set(sys.argv):
        return exit_code(lambda: go_on(sys.argv[1:]))
    return cli.run(launch_words, sys.argv[1:], flags=("dry_run",))


def launch_words(composed: Composed, dry_run: bool = False) -> int:
    if composed.posttrain.cluster.name != "local":
        return clusters.submit(composed, say, dry_run)
    if dry_run:
        clusters.refuse_dry_run()
    return session.hand_over(begin(composed), composed.posttrain.detach)


if __name__ == "__main__":
    sys.exit(main())
