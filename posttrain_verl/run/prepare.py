"""From a composed launch to a run folder that is ready to start: everything is checked, built and written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf

import data_prep
from data_prep.finished import describe_difference
from posttrain_verl import base_models, own_reward, preflight
from posttrain_verl.compose import to_plain_dict
from posttrain_verl.machine import devices
from posttrain_verl.mixes import data_errors_as_input
from posttrain_verl.plan import summary
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.same_data import DIGESTS, digest_data
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem, blocking
from posttrain_verl.verl.composed import Composed


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


def check_attempt(folder: RunFolder, config: DictConfig, watch: dict[str, Any], own: Sequence[str] = ()) -> None:
    """Check the next attempt of a run as a launch is checked, and write down what was found and how many steps it has.

    `config` is what VeRL will get, and `own` what was typed. The keys of ours stay, and those of VeRL were compared with the
    run's own. A mix that is offline is built again where its files are gone.

    Raises:
        InputError: the attempt cannot run. The folder is as it was.
    """
    plan = folder.read_plan()
    if "posttrain" in plan:
        composed = compose_run(folder, config, plan)
        if not all(file.is_file() for file in preflight.data.list_mix_files(composed)):
            prepare_data(composed)
        report = preflight.run_checks(composed, skip=("keys", "mix", "run_folder"))
        if blocking(report.problems):
            raise InputError("cannot resume", report.problems)
        for line in report.lines():
            log.info(line)
        report.write(folder.path)
        plan["total_steps"] = preflight.training.count_steps(composed) or plan["total_steps"]
    else:
        log.info("an earlier version launched this run, so that it is not checked again")
        plan["total_steps"] = folder.stage.settings(config).total_steps or plan.get("total_steps")
    folder.write_plan(plan | {"watch": watch, "resumed_with": [*plan.get("resumed_with", ()), *own]})


def compose_run(folder: RunFolder, config: DictConfig, plan: dict[str, Any]) -> Composed:
    """The launch of a run again, with `config` as what VeRL gets. Where the hardware was found, this machine is looked at.

    Raises:
        InputError: the run was launched on accelerators, and there are none here.
    """
    posttrain = OmegaConf.create(
        {**plan["posttrain"], "runs_dir": str(folder.path.parents[1]), "run_id": folder.path.name}
    )
    found = devices.detect_machine() if plan["choices"]["hardware"] == "auto" else None
    if found and found.name == "cpu":
        what = f"the run was launched on {posttrain.hardware.name}, and here {found.reason}"
        raise InputError("cannot resume", [Problem(what, "resume it on a machine with as many GPUs")])
    return Composed(recipe=plan["recipe"], stage=folder.stage, verl=config, posttrain=posttrain,
                    overrides=plan["overrides"], choices=plan["choices"], machine=found)  # fmt: skip


def prepare_model(composed: Composed) -> tuple[Path | None, bool]:
    """The folder of an embedded or local model, and whether it was built for that; no folder for a model of the hub."""
    model = composed.model
    if not base_models.is_embedded(model):
        return (base_models.ensure_model(model) if Path(model).is_dir() else None), False
    is_missing = base_models.built_folder(model) is None
    return base_models.ensure_model(model), is_missing


def prepare_data(composed: Composed) -> bool:
    """Build the mix if the launch reads it, it needs no network and its Parquet is missing; return whether it was missing."""
    mix: Any = OmegaConf.to_container(composed.posttrain.mix)
    if not preflight.data.reads_offline_mix(composed) or data_prep.is_complete(composed.data_dir, mix):
        return False
    composed.data_dir.parent.mkdir(parents=True, exist_ok=True)
    # Of several launches at the same time, one builds.
    with FileLock(composed.data_dir.with_name(f".{composed.data_dir.name}.lock")):
        if not data_prep.is_complete(composed.data_dir, mix):
            other = describe_difference(composed.data_dir, mix)
            log.info(
                f"building the mix {mix['name']} in {composed.data_dir}"
                + (f", in place of one with {other}" if other else "")
            )
            with data_errors_as_input(f"the mix {mix['name']} cannot be built"):
                # The data stays for other runs, so that a reward of the user's own, which the checks call, drops nothing.
                data_prep.build(mix, composed.data_dir, any_source=own_reward.takes_any_source(composed.settings))
    return True


def describe_devices(composed: Composed) -> str:
    """The devices of the launch for a reader, e.g. `8 x NVIDIA H100 80GB HBM3`, `CPU (16 cores)` or `16 devices of 8x8xh100`."""
    settings, hardware = composed.settings, composed.posttrain.hardware.name
    if settings.device == "cpu":
        return f"CPU ({os.cpu_count()} cores)"
    kinds = {device.name for device in composed.machine.facts.described} if composed.machine else set()
    count = settings.world_size
    return f"{count} x {kinds.pop()}" if len(kinds) == 1 else f"{count} devices of {hardware}"


def plan_facts(composed: Composed, model: Path | None) -> dict[str, object]:
    """What plan.json holds: what the user asked for, and what the hardware made of it.

    `model` is the folder of the model, or None for a model of the hub.
    """
    return {
        "recipe": composed.recipe,
        "stage": composed.stage.name,
        "total_steps": preflight.training.count_steps(composed),
        "overrides": composed.overrides,
        "choices": {group: name for group, name in composed.choices.items() if not group.startswith("hydra/")},
        "posttrain": {**to_plain_dict(composed.posttrain), "data_dir": str(composed.data_dir.parent)},
        "hardware": composed.posttrain.hardware.name,
        "devices": describe_devices(composed),
        "mix": composed.posttrain.mix.name,
        "base_model": composed.posttrain.base_model.name,
        "model": str(model or composed.model),
        "local_model": model is not None,
        "watch": to_plain_dict(composed.posttrain.watch),
        "changes": [vars(change) for change in composed.changes],
        DIGESTS: digest_data(composed.settings),
        **summary.summarize_plan(composed),
    }
