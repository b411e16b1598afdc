"""The entry that trains: a recipe, launched from the checkpoint that was chosen before it, until its end or its plateau."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

from data_prep.declaration import Declaration, Number, Positive, nearest, wrong
from data_prep.schema import RL
from posttrain_verl import compose as composing
from posttrain_verl import paths
from posttrain_verl.export.weights import ensure_weights, present_weights, weights_folder
from posttrain_verl.overrides import name_trained
from posttrain_verl.paths import write_atomically
from posttrain_verl.pipeline.entry import Entry, Pipeline, StageFailed, Step
from posttrain_verl.run.folder import DONE, RunFolder
from posttrain_verl.run.output import MetricsTail
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verl.checkpoints import best_step, has_weights
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.metrics import VALIDATION_LOSS
from posttrain_verl.verl.stage import Settings, Stage
from posttrain_verl.watch.watcher import unattended_overrides

DATA_DIR = "posttrain.data_dir"


class Plateau(Declaration):
    """A stage stops early when `metric` has not improved by more than the share `min_gain` in its last `patience` validations.

    The metric is one that falls, such as val/loss. This is early stopping with patience (Prechelt 1998, "Early stopping - but
    when?", criterion UP with a floor on the gain).
    """

    metric: str = VALIDATION_LOSS.key
    patience: Positive = 2
    min_gain: Annotated[Number, Field(ge=0)] = 0.01

    def is_reached(self, values: Sequence[float]) -> bool:
        """Whether the curve so far is on its plateau; `values` are those of every validation, oldest first."""
        if len(values) <= self.patience:
            return False
        before, last = min(values[: -self.patience]), min(values[-self.patience :])
        return not last < before - abs(before) * self.min_gain


def _known_recipe(recipe: str) -> str:
    if recipe not in (known := paths.names("recipe")):
        raise wrong(f"is {recipe!r}, which is not a recipe", nearest(recipe, known, f"there are: {', '.join(known)}"))
    return recipe


class Chosen(NamedTuple):
    """The checkpoint that a training is left with: its Hugging Face folder and its step."""

    folder: Path
    step: int


class Training(Entry):
    """Train by a recipe. The stage begins at the checkpoint of the training before it, the first at the model of its recipe."""

    KEY = "recipe"

    recipe: Annotated[str, AfterValidator(_known_recipe)]
    plateau: Plateau | None = None

    @cached_property
    def stage(self) -> Stage:
        """The stage of the recipe. Raises InputError: the recipe does not compose."""
        return composing.compose([f"recipe={self.recipe}"]).stage

    @property
    def usual_name(self) -> str:
        return self.stage.name

    def launches(self, it: Pipeline) -> list[Composed]:
        return [it.compose([f"recipe={self.recipe}", *self.launch_overrides(it)])]

    def launch_overrides(self, it: Pipeline) -> list[str]:
        """The overrides of the launch: the user's, the pipeline's seed, and where the run lies."""
        given = [*it.spec.overrides, *self.overrides]
        kept = [override for override in given if override.partition("=")[0] != DATA_DIR]
        data_dir = dict(override.partition("=")[::2] for override in given).get(DATA_DIR, "data")
        seeds = self.seed_overrides(it.spec.seed, data_dir)
        return [
            *kept,
            *seeds,
            f"posttrain.runs_dir={it.home / 'runs'}",
            f"posttrain.run_id={self.run_of(it).path.name}",
        ]

    def seed_overrides(self, seed: int | None, data_dir: str) -> list[str]:
        """The overrides that give a launch the pipeline's seed. Each seed has data of its own, held-out questions included."""
        if seed is None:
            return [f"{DATA_DIR}={data_dir}"]
        return [f"{DATA_DIR}={data_dir}/seed{seed}", f"posttrain.mix.seed={seed}", *self.stage.seed_overrides(seed)]

    def run_of(self, it: Pipeline) -> RunFolder:
        """The run. Trainings by the same recipe are numbered."""
        before = it.spec.stages[: it.place_of(self)]
        number = sum(isinstance(each, Training) and each.recipe == self.recipe for each in before)
        return RunFolder(it.home / "runs" / self.recipe / str(number))

    def steps(self, it: Pipeline) -> Iterator[Step]:
        yield self.name, partial(self.train, it)
        if self.is_chosen_from(it):
            yield f"choose-{self.name}", partial(self.choose, it)

    def train(self, it: Pipeline) -> None:
        """Launch or resume the run. One that is done, or was ended by its plateau, stays as it is.

        Raises:
            StageFailed: the run ended badly.
        """
        run = self.run_of(it)
        it.journal.note(self.name, run=str(run.path.relative_to(it.home)))
        if self.is_trained(it):
            return
        arguments = [f"run={run.path}"] if run.config.is_file() else self._new_launch(it)
        command = [sys.executable, "-m", "posttrain_verl.launch", *arguments]
        code = follow_launch(run, command, self.plateau, self.plateau_file(it))
        if code and not self.is_trained(it):
            raise StageFailed(self.name, code)

    def _new_launch(self, it: Pipeline) -> list[str]:
        """The arguments of `launch` that begin the run. What earlier entries hand over replaces what the user named."""
        (composed,) = self.launches(it)
        received = it.received(self)
        replaced = {override.partition("=")[0] for override in received}
        own = [each for each in self.launch_overrides(it) if each.partition("=")[0] not in replaced]
        found = [f"recipe={self.recipe}", *received, *own, *unattended_overrides(composed.posttrain.watch)]
        if self.plateau:
            # Every validation has its checkpoint, and the best one is still there when the plateau is seen.
            settings, kept = composed.settings, self.plateau.patience + 1
            found.append(settings.override("validate_every", settings.save_every))
            found += [model.override("kept_checkpoints", kept) for model in settings.models]
        return found

    def plateau_file(self, it: Pipeline) -> Path:
        """The file that says that the plateau ended the run."""
        return it.home / f"plateau-{self.name}.json"

    def is_trained(self, it: Pipeline) -> bool:
        """Whether the run is done, or was ended by its plateau."""
        run = self.run_of(it)
        ended = run.status.is_file() and run.read_status().state == DONE
        return ended or self.plateau_file(it).is_file()

    def is_chosen_from(self, it: Pipeline) -> bool:
        """Whether the best checkpoint is looked for: another stage begins there, or the newest is past the plateau."""
        return self.plateau is not None or self.name != it.spec.stages[-1].name

    def choose(self, it: Pipeline) -> None:
        """Choose the checkpoint that answers most held-out questions right.

        Of equal ones it is the one that the run's own validation found best, else the newest.

        Raises:
            InputError: there is no checkpoint.
        """
        file = self._chosen_file(it)
        if file.is_file() and self.chosen(it).folder.is_dir():
            return
        run = self.run_of(it)
        shards = {step: run.shards(step) for step in run.checkpoint_steps()}
        # A plateau may have ended the run while it wrote one more checkpoint.
        steps = [step for step, folder in shards.items() if has_weights(folder) or present_weights(run, step)]
        if not steps:
            what = f"{run.checkpoints} does not hold a checkpoint"
            remedy = f"set {self.name}:{Settings.key('save_every')}"
            raise InputError(f"{self.name} leaves nothing to continue from", [Problem(what, remedy)])
        folders = {step: ensure_weights(run, step) for step in steps}
        scores: dict[int, float | None] = dict.fromkeys(steps)
        questions = self.held_out_questions(it)
        if len(steps) > 1 and questions:
            scores |= {step: self.held_out_accuracy(it, folder, step, questions) for step, folder in folders.items()}
        favourite = best_step(run.checkpoints, run.stage.decides_checkpoint, steps)  # by the stage's own validation
        best = max(steps, key=lambda step: (scores[step] or 0.0, step == favourite, step))
        if len(steps) > 1:
            judged = f"on held-out questions: {scores}" if questions else "have no held-out questions"
            log.info(f"the checkpoints of {self.name} {judged}; step {best} is chosen")
        write_atomically(file, json.dumps({"folder": str(folders[best]), "step": best, "held_out": scores}) + "\n")
        for step in set(steps) - {best}:  # their checkpoints stay, and can be exported again
            shutil.rmtree(weights_folder(run, step), ignore_errors=True)

    def _chosen_file(self, it: Pipeline) -> Path:
        return it.home / f"chosen-{self.name}.json"

    def chosen(self, it: Pipeline) -> Chosen:
        """What `choose` left."""
        found = json.loads(self._chosen_file(it).read_text())
        return Chosen(Path(found["folder"]), found["step"])

    def held_out_questions(self, it: Pipeline) -> Path | None:
        """The validation questions of the first later launch whose mix has some, else its own; None where there are none."""
        later = [composed for entry in it.spec.stages[it.place_of(self) + 1 :] for composed in entry.launches(it)]
        files = [each.data_dir / f"{RL.validation_split}.parquet" for each in (*later, *self.launches(it))]
        return next((file for file in files if file.is_file()), None)

    def held_out_accuracy(self, it: Pipeline, folder: Path, step: int, questions: Path) -> float:
        """The accuracy of a checkpoint on held-out questions."""
        out = it.home / "held_out" / f"{self.name}-step-{step}.json"
        return it.evaluate_model(str(folder), str(questions), f"step-{step}", out)

    def hand_over(self, it: Pipeline, received: list[str]) -> list[str]:
        chosen = self.chosen(it)
        return name_trained(chosen.folder, self.run_of(it).path, chosen.step)


def follow_launch(run: RunFolder, command: list[str], rule: Plateau | None, mark: Path) -> int:
    """Run a launch to its end, or until its validations are on the plateau of `rule`; returns the exit code.

    The plateau is written down in `mark`, so that the run does not start again.
    """
    tail, values = MetricsTail(run.metrics), []
    process = subprocess.Popen(command)
    try:
        while process.poll() is None:
            time.sleep(1.0)
            if rule is None:
                continue
            values += [data[rule.metric] for _, data in tail.read() if rule.metric in data]
            if rule.is_reached(values):
                log.info(f"plateau: {rule.metric} {', '.join(f'{value:.4g}' for value in values)}; the stage ends here")
                write_atomically(mark, json.dumps({"metric": rule.metric, "values": values}) + "\n")
                process.send_signal(signal.SIGINT)
                rule = None
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    return process.returncode
