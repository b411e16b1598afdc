"""The stages of a pipeline in their order: those that every pipeline has, around those of its own list.

Each looks for what it leaves before it does anything, so that a pipeline resumes where it ended.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import data_prep
from data_prep import manifest
from posttrain_verl import own_reward
from posttrain_verl.evaluate.comparison import BASE
from posttrain_verl.export.weights import has_folder, result_step
from posttrain_verl.mixes import data_errors_as_input
from posttrain_verl.pipeline.entry import TEST_SPLIT, Pipeline, Step, call_verb
from posttrain_verl.pipeline.training import Training
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verl.checkpoints import HUGGING_FACE


def all_steps(it: Pipeline) -> Iterator[Step]:
    """Everything that a pipeline does, in order, each with its name in pipeline.json."""
    yield "prep", partial(prep, it)
    yield "inspect", partial(inspect, it)
    for entry in it.spec.stages:
        yield from entry.steps(it)
    yield "evaluate", partial(evaluate, it)
    if it.spec.export:
        yield "export", partial(export, it)


def prep(it: Pipeline) -> None:
    """Build the mixes of the launches that are not built yet."""
    for composed in it.launches():
        mix: Any = OmegaConf.to_container(composed.posttrain.mix)
        if not data_prep.is_complete(composed.data_dir, mix):
            log.info(f"building the mix {mix['name']} in {composed.data_dir}")
            with data_errors_as_input(f"the mix {mix['name']} cannot be built"):
                settings = composed.settings
                reward, any_source = own_reward.of_settings(settings), own_reward.takes_any_source(settings)
                data_prep.build(mix, composed.data_dir, reward, any_source)


def inspect(it: Pipeline) -> None:
    """Somebody must have looked at the rows. Raises InputError: nobody has; the command that shows them is the remedy."""
    problems = []
    for composed in {launch.data_dir: launch for launch in it.launches()}.values():
        if it.spec.require_inspected and not manifest.read_manifest(composed.data_dir).get("inspected"):
            look = f"python -m posttrain_verl.inspect mix={composed.typed_option('mix')} --approve"
            where = shlex.quote(f"posttrain.data_dir={composed.data_dir.parent}")
            what = f"nobody has looked at the rows of {composed.data_dir}"
            remedy = f"{look} {where}\nand the same command again; or require_inspected=false"
            problems.append(Problem(what, remedy))
    if problems:
        raise InputError("the pipeline waits", problems)


def evaluate(it: Pipeline) -> None:
    """Measure the base model and what each training left on every set of questions."""
    launches, names = it.launches(), list(it.spec.evals)
    composed = launches[-1]
    if any(change.key == "mix" for change in composed.changes):
        mix = composed.posttrain.mix.name
        log.info(f"this machine trains on the mix {mix}: its test split takes the place of {names}")
        names = [TEST_SPLIT]
    trainings = trainings_of(it)
    models = {BASE: launches[0].model, **{each.name: str(each.chosen(it).folder) for each in trainings[:-1]}}
    models[trainings[-1].name] = str(final_model(it))
    for name in names:
        questions = str(composed.data_dir / "test.parquet") if name == TEST_SPLIT else name
        for label, model in models.items():
            it.evaluate_model(model, questions, label, it.home / "eval" / f"{label}-{name}.json")


def trainings_of(it: Pipeline) -> list[Training]:
    """The entries that train, in order."""
    return [entry for entry in it.spec.stages if isinstance(entry, Training)]


def final_model(it: Pipeline) -> Path:
    """The folder of the model that the pipeline ends with. It is exported if transformers cannot load what VeRL saved."""
    last = trainings_of(it)[-1]
    if last.is_chosen_from(it):
        return last.chosen(it).folder
    run = last.run_of(it)
    checkpoint = run.shards(result_step(run))
    if has_folder(checkpoint):
        return checkpoint / HUGGING_FACE
    export(it)
    return it.home / "export"


def export(it: Pipeline) -> None:
    """Write the model that the pipeline ends with as a folder, with its proof."""
    out, last = it.home / "export", trainings_of(it)[-1]
    if not out.is_dir():
        step = [f"step={last.chosen(it).step}"] if last.is_chosen_from(it) else []
        call_verb("export", [f"run={last.run_of(it).path}", *step, f"posttrain.out={out}"])
