"""From a composed launch to a run folder that is ready to start: everything is checked, built and written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import OmegaConf

import data_prep
from posttrain_verl import base_models, own_reward, preflight
from posttrain_verl.mixes import data_errors_as_input
from posttrain_verl.plan import summary
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verl.composed import Composed


def introduction_lines(composed: Composed) -> list[str]:
    """The first lines of a launch: the recipe, the hardware, and each key it changed with the reason."""
    hardware = composed.posttrain.hardware.name
    lines = [f"recipe {composed.recipe} ({composed.stage.name}), model {composed.posttrain.base_model.name}, "
             f"mix {composed.posttrain.mix.name}, hardware {hardware}"]  # fmt: skip
    if hardware == "cpu":
        why = composed.machine.reason if composed.machine else "hardware=cpu"
        lines.append(f"{why}: this runs the real VeRL, vLLM and Ray on the CPU backend. It changed:")
    elif composed.changes:
        lines.append(f"hardware={hardware} changed:")
    return lines + [f"  {change}" for change in composed.changes]


def set_up_run(composed: Composed) -> RunFolder:
    """Check a launch, build the model and data that are missing, and return the run folder, complete but for the run.

    What was built is checked like everything else. The folder is made last, so that a launch that fails leaves none.

    Raises:
        InputError: the launch cannot run.
    """
    report = preflight.run_checks(composed)
    preflight.raise_if_blocked(report.problems, composed)
    model, built_model = prepare_model(composed)
    if prepare_data(composed) or built_model:
        report = preflight.run_checks(composed)
        preflight.raise_if_blocked(report.problems, composed)
    path = composed.run_dir()
    try:
        folder = RunFolder.create(path)
    except FileExistsError:
        problem = Problem(f"{path} holds a run already", "choose another posttrain.run_id, or leave it out")
        raise InputError(f"recipe '{composed.recipe}' cannot launch", [problem]) from None
    try:
        folder.write_config(composed.for_run(path, model=model))
        folder.write_plan(plan_facts(composed, model))
        own_reward.keep_in_run(own_reward.of_settings(composed.settings), path)
        report.write(path)
    except BaseException:
        shutil.rmtree(path)
        raise
    for line in [*report.lines(), f"run folder {path}"]:
        log.info(line)
    return folder


def prepare_model(composed: Composed) -> tuple[Path | None, bool]:
    """The folder of an embedded or local model, and whether it was built for that; no folder for a model of the hub."""
    model = composed.model
    if not base_models.is_embedded(model):
        return (base_models.ensure_model(model) if Path(model).is_dir() else None), False
    is_missing = base_models.built_folder(model) is None
    return base_models.ensure_model(model), is_missing


def prepare_data(composed: Composed) -> bool:
    """Build the mix if it needs no network and its Parquet is missing; return whether it was missing."""
    mix: Any = OmegaConf.to_container(composed.posttrain.mix)
    if not preflight.data.is_offline(composed) or data_prep.is_complete(composed.data_dir, mix):
        return False
    composed.data_dir.parent.mkdir(parents=True, exist_ok=True)
    # Of several launches at the same time, one builds.
    with FileLock(composed.data_dir.with_name(f".{composed.data_dir.name}.lock")):
        if not data_prep.is_complete(composed.data_dir, mix):
            log.info(f"building the mix {mix['name']} in {composed.data_dir}")
            with data_errors_as_input(f"the mix {mix['name']} cannot be built"):
                settings = composed.settings
                reward, any_source = own_reward.of_settings(settings), own_reward.takes_any_source(settings)
                data_prep.build(mix, composed.data_dir, reward, any_source)
    return True


def plan_facts(composed: Composed, model: Path | None) -> dict[str, object]:
    """What plan.json holds: what the user asked for, and what the hardware made of it.

    `model` is the folder of the model, or None for a model of the hub.
    """
    return {
        "recipe": composed.recipe,
        "stage": composed.stage.name,
        "total_steps": preflight.training.count_steps(composed),
        "overrides": composed.overrides,
        "hardware": composed.posttrain.hardware.name,
        "mix": composed.posttrain.mix.name,
        "base_model": composed.posttrain.base_model.name,
        "model": str(model or composed.model),
        "local_model": model is not None,
        "watch": OmegaConf.to_container(composed.posttrain.watch),
        "changes": [vars(change) for change in composed.changes],
        **summary.summarize_plan(composed),
    }
