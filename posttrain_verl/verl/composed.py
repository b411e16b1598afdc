"""One launch, composed: what VeRL gets, our own keys, and what the hardware changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from posttrain_verl import paths
from posttrain_verl.machine.devices import Machine
from posttrain_verl.verl.stage import Settings, Stage


@dataclass(frozen=True)
class Change:
    """What the hardware set: `key` from `old` to `new`, and `why` in one phrase."""

    key: str
    old: Any
    new: Any
    why: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new} ({self.why})"


@dataclass(frozen=True)
class Composed:
    """One launch, composed.

    `verl` is what VeRL gets, but for the paths of the run (see `for_run`). `posttrain` holds our keys. `changes` says what the
    hardware set. `overrides` are the user's own, with which the same launch composes again. `choices` maps each Hydra group
    to its option, and `files` each of our groups to the file of its option. `user_keys` are the keys set on the command line.
    `machine` is what `hardware=auto` found.
    """

    recipe: str
    stage: Stage = field(repr=False)
    verl: DictConfig = field(repr=False)
    posttrain: DictConfig = field(repr=False)
    changes: list[Change] = field(default_factory=list, repr=False)
    overrides: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict, repr=False)
    user_keys: frozenset[str] = field(default=frozenset(), repr=False)
    machine: Machine | None = field(default=None, repr=False)
    files: dict[str, Path] = field(default_factory=dict, repr=False)

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """`verl` as dicts and lists, every interpolation resolved. Raises OmegaConfBaseException where one cannot be."""
        return cast(dict[str, Any], OmegaConf.to_container(self.verl, resolve=True))

    @cached_property
    def settings(self) -> Settings:
        """`verl` under names of ours, with what its stage makes of it."""
        return self.stage.settings(self.verl)

    @property
    def model(self) -> str:
        """The model that is trained: the name of an embedded one, a folder, or a hub id."""
        return self.models[0]

    @property
    def models(self) -> list[str]:
        """Every model of the launch; the trained one first, then the critic's."""
        return [str(OmegaConf.select(self.verl, key)) for key in self.stage.model_keys()]

    def typed_option(self, group: str) -> str:
        """What to type for the option of a group: its name, or the path of a file that is not found by its name."""
        name, file = self.choices[group], self.files.get(group)
        return name if file is None or paths.find_option(group, name) == file else str(file)

    @property
    def data_dir(self) -> Path:
        """The folder of the mix: Parquet and manifest.json."""
        return Path(self.posttrain.data_dir).expanduser().absolute() / self.posttrain.mix.name

    def run_dir(self) -> Path:
        """`<runs_dir>/<recipe>/<run_id>`, absolute. Without `posttrain.run_id` the id is the time of the call."""
        given = self.posttrain.run_id
        run_id = datetime.now().strftime("%Y%m%d-%H%M%S") if given is None else given
        return Path(self.posttrain.runs_dir).expanduser().absolute() / self.recipe / str(run_id)

    def for_run(self, run_dir: Path, model: str | Path | None = None) -> DictConfig:
        """What VeRL gets for this run: a copy of `verl` with the paths of `run_dir`.

        `model` is the folder that took the place of an embedded model's name. Keys that the user set stay. Paths
        become absolute, since Ray's workers on other nodes have a current folder of their own.
        """
        config = self.verl.copy()
        name = {Settings.key("experiment_name"): f"{self.recipe}/{run_dir.name}"}
        for key, value in (self.stage.run_paths(run_dir) | name).items():
            if key not in self.user_keys:
                OmegaConf.update(config, key, value)
        for key in Settings.keys("train_files", "val_files"):
            OmegaConf.update(config, key, paths.absolute_paths(OmegaConf.select(config, key)))
        if model is not None:
            for key in self.stage.model_keys():
                if OmegaConf.select(config, key) == self.model:
                    OmegaConf.update(config, key, str(model))
        return config
