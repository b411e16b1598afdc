"""The entry that makes data of a model's own answers, for the training after it: `- synthesize: 8`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from data_prep import manifest
from data_prep.declaration import Positive
from data_prep.schema import PAIRS, RL, row_kind
from posttrain_verl.overrides import sets_key
from posttrain_verl.pipeline.entry import Entry, Pipeline, Step, call_verb
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verbs import Synthesize
from posttrain_verl.verl.composed import Composed

MODEL = "base_model="
MODEL_KEYS = ("base_model", "posttrain.base_model")  # what a training hands over
FOLDER = "synthesized"  # of the pipeline


class Synthesis(Entry):
    """Ask the model of the training before it for `synthesize` answers to each training question of the last mix that has some.

    The next training reads what was kept beside the rows of its own mix. It begins at the checkpoint that was asked, or with
    `begin: base` at the model of its recipe, as in rejection-sampling fine-tuning. `overrides` are arguments of the verb.
    """

    KEY = "synthesize"

    synthesize: Positive
    begin: Literal["checkpoint", "base"] = "checkpoint"

    def misuse(self, override: str) -> str:
        return Synthesize.misuse(override)

    def steps(self, it: Pipeline) -> Iterator[Step]:
        yield self.name, partial(self._write_data, it)

    def folder(self, it: Pipeline) -> Path:
        """Where the data lies."""
        return it.home / FOLDER / self.name

    def _write_data(self, it: Pipeline) -> None:
        """Write the data, unless it is there.

        Raises:
            InputError: no mix of the pipeline has training questions, or nobody has looked at the data; StageFailed.
        """
        folder = self.folder(it)
        if not (folder / manifest.FILE_NAME).is_file():
            model = next(
                (each for each in it.received(self) if each.startswith(MODEL)), f"{MODEL}{it.launches()[0].model}"
            )
            arguments = [f"mix={self._question_file(it)}", model, f"n={self.synthesize}", f"name={folder.name}",
                         f"posttrain.data_dir={folder.parent}", *it.reward_arguments()]  # fmt: skip
            call_verb(self.KEY, [*arguments, *self.overrides])
        if it.spec.require_inspected and not manifest.read_manifest(folder).get("inspected"):
            look = f"python -m posttrain_verl.inspect mix={folder} --approve"
            remedy = f"{look}\nand the same command again; or require_inspected=false"
            raise InputError("the pipeline waits", [Problem(f"nobody has looked at the rows of {folder}", remedy)])

    def _question_file(self, it: Pipeline) -> Path:
        files = [launch.data_dir / f"{RL.training_split}.parquet" for launch in reversed(it.launches())]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            what = f"no mix of this pipeline has a split {RL.training_split}, whose questions {self.name} asks"
            raise InputError("the pipeline cannot continue", [Problem(what, "add the split to the mix of one stage")])
        return found

    def hand_over(self, it: Pipeline, received: list[str]) -> list[str]:
        kept = [each for each in received if self.begin == "checkpoint" or not sets_key(each, MODEL_KEYS)]
        later = [launch for entry in it.spec.stages[it.place_of(self) + 1 :] for launch in entry.launches(it)]
        return [*kept, *self._data_overrides(it, later[0])] if later else kept

    def _data_overrides(self, it: Pipeline, launch: Composed) -> Iterator[str]:
        """The files of a launch that were written here: beside those of its mix for training, and in place of a validation file
        that its mix does not have. Pairs stand alone, since they are answers of the model that is trained."""
        settings, folder = launch.settings, self.folder(it)
        trained, validated = (
            [Path(file).absolute() for file in settings.files(name)] for name in ("train_files", "val_files")
        )
        if own := [folder / file.name for file in trained if (folder / file.name).is_file()]:
            others = [file for file in trained if file.is_file() and row_kind(file.stem) is not PAIRS]
            files = [*others, *own]
            yield settings.override("train_files", [str(file) for file in files])
        is_needed = {file: not file.is_file() or row_kind(file.stem) is PAIRS for file in validated}
        own = [folder / file.name for file in validated if is_needed[file] and (folder / file.name).is_file()]
        if own:
            yield settings.override("val_files", [str(file) for file in own])
