"""The only module that knows how Hydra and VeRL's config tree meet.

VeRL's tree lies at the root, our keys under one node `posttrain`, which is taken away before VeRL sees the config.
Recipes are registered as the Hydra group `recipe` from recipes/ of the package and of the current folder.
Nothing here imports VeRL or torch: composing takes about a second.
"""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from posttrain_verl import options, paths
from posttrain_verl.overrides import OUR_GROUPS, Overrides, read, recipe_folders
from posttrain_verl.plan import adapt, hardware
from posttrain_verl.plan.hardware import Change, Machine
from posttrain_verl.problem import InputError, Problem
from posttrain_verl.verl.context import fill_max_model_len
from posttrain_verl.verl_keys import generated_tree

TRUNKS = {"rl": "ppo_trainer", "sft": "sft_trainer_engine"}
MODEL_KEYS = {"rl": ("actor_rollout_ref.model.path", "critic.model.path"), "sft": ("model.path",)}
VERSION_BASE = "1.3"
_RUN_ID = re.compile(r"[A-Za-z0-9][\w.+=-]{0,99}", re.ASCII)  # it names a folder, a job, and is searched for

OmegaConf.register_new_resolver("verl_config_dir", lambda: str(paths.verl_config_dir()), replace=True)


@dataclass(frozen=True)
class Composed:
    """One launch, composed.

    `verl` is what VeRL gets, but for the paths of the run (see `for_run`); `posttrain` holds our keys; `changes` says
    what the hardware set; `overrides` are the user's own, with which the same launch composes again; `choices` maps
    each Hydra group to its option; `user_keys` are the keys set on the command line; `machine` is what `hardware=auto`
    found.
    """

    recipe: str
    stage: str
    verl: DictConfig
    posttrain: DictConfig
    changes: list[Change] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)
    user_keys: frozenset[str] = frozenset()
    machine: Machine | None = None

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """`verl` as dicts and lists, every interpolation resolved. Raises OmegaConfBaseException where one cannot be."""
        return cast(dict[str, Any], OmegaConf.to_container(self.verl, resolve=True))

    @property
    def model(self) -> str:
        """The model that is trained: the name of an embedded one, a folder, or a hub id."""
        return self.models[0]

    @property
    def models(self) -> list[str]:
        """Every model of the launch; the trained one first, then the critic's."""
        return [str(OmegaConf.select(self.verl, key)) for key in MODEL_KEYS[self.stage]]

    @property
    def data_dir(self) -> Path:
        """The folder of the mix: Parquet and manifest.json."""
        return Path(self.posttrain.data_dir).expanduser().absolute() / self.posttrain.mix.name

    def run_dir(self, now: datetime | None = None) -> Path:
        """`<runs_dir>/<recipe>/<run_id>`, absolute; without `posttrain.run_id` the id is the time."""
        given = self.posttrain.run_id
        run_id = (now or datetime.now()).strftime("%Y%m%d-%H%M%S") if given is None else given
        return Path(self.posttrain.runs_dir).expanduser().absolute() / self.recipe / str(run_id)

    def for_run(self, run_dir: Path, model: str | Path | None = None) -> DictConfig:
        """What VeRL gets for this run: a copy of `verl` with the paths of `run_dir`.

        `model` is the folder that took the place of an embedded model's name. Keys that the user set stay. Paths
        become absolute, since Ray's workers on other nodes have a current folder of their own.
        """
        config = self.verl.copy()
        for key, value in self._run_paths(run_dir).items():
            if key not in self.user_keys:
                OmegaConf.update(config, key, value)
        for key in ("data.train_files", "data.val_files"):
            OmegaConf.update(config, key, paths.absolute(OmegaConf.select(config, key)))
        if model is not None:
            for key in MODEL_KEYS[self.stage]:
                if OmegaConf.select(config, key) == self.model:
                    OmegaConf.update(config, key, str(model))
        return config

    def _run_paths(self, run_dir: Path) -> dict[str, str]:
        common = {"trainer.default_local_dir": str(run_dir / "checkpoints"),
                  "trainer.experiment_name": f"{self.recipe}/{run_dir.name}"}  # fmt: skip
        if self.stage == "sft":
            return common
        return common | {"trainer.rollout_data_dir": str(run_dir / "rollouts"),
                         "trainer.validation_data_dir": str(run_dir / "validation")}  # fmt: skip


def compose(overrides: list[str], fixed: frozenset[str] | None = None) -> Composed:
    """Compose a launch from the words of the command line, e.g. `["recipe=math_grpo", "base_model=tiny"]`.

    The hardware touches no key of `fixed`; by default those are all that the words set.

    Raises:
        InputError: a word that cannot be read, an unknown recipe, model, mix or hardware, or a tree that does not
            compose. Keys that VeRL does not know compose; `preflight.keys` reports them.
    """
    asked = read(overrides)
    recipe, machine = asked.options["recipe"], asked.options.get("hardware", "auto")
    register_recipes([recipe])
    found = hardware.detect() if machine == "auto" else None
    words = [*asked.words, f"hardware={found.name if found else machine}"]
    title = f"recipe '{recipe}' does not compose"
    try:
        tree = _compose_tree("launch", paths.conf_dir(), words)
        if found:
            hardware.describe(tree.posttrain.hardware, found)
        kept = asked.keys if fixed is None else fixed
        changes = _replace_options(tree, asked) + hardware.apply(tree, kept, found)
        fill_max_model_len(tree, kept)
        changes += adapt.apply(tree, kept, asked.options)
        return replace(_split(tree, overrides, asked.keys, changes), machine=found)
    except (HydraException, OmegaConfBaseException) as error:
        what = " ".join(str(error).split()).removesuffix(" object_type=dict")
        raise InputError(title, [Problem(what, "correct the word, or the yaml, that says so")]) from error


def verl_tree(stage: str, choices: dict[str, str]) -> dict[str, Any]:
    """VeRL's own tree of the stage, unresolved, with the same choices of VeRL's groups: the keys that VeRL knows."""
    shipped = generated_tree(choices) if stage == "rl" else None
    if shipped is not None:
        return shipped
    # A group with ".." in its name is one that VeRL's own option includes; it follows from that option.
    theirs = {g: c for g, c in choices.items() if g not in OUR_GROUPS and not g.startswith("hydra/") and ".." not in g}
    words = [f"{group}={option}" for group, option in theirs.items()]
    tree = _compose_tree(TRUNKS[stage], paths.verl_config_dir(), words)
    return {key: value for key, value in plain(tree).items() if key != "hydra"}


def our_tree(choices: dict[str, str]) -> dict[str, Any]:
    """Our own keys below `posttrain`: those of launch.yaml, and those of the chosen options."""
    tree = plain(_load(paths.conf_dir() / "launch.yaml").posttrain)
    options = {group: _option(group, choices[group]) for group in OUR_GROUPS if group != "recipe"}
    return tree | {group: plain(option) for group, option in options.items()}


def verl_version() -> str:
    """The version of the installed VeRL, read without importing it."""
    return importlib.metadata.version("verl")


def plain(node: DictConfig) -> dict[str, Any]:
    """A node of a config as dicts and lists, interpolations as they are written."""
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))


def register_recipes(wanted: list[str]) -> None:
    """Store the named recipes as the Hydra group `recipe`; a file of the current folder wins over a shipped one.

    Raises:
        InputError: a recipe is not readable yaml.
    """
    for name in wanted:
        file = next(folder / f"{name}.yaml" for folder in recipe_folders() if (folder / f"{name}.yaml").is_file())
        try:
            node = OmegaConf.load(file)
        except (YAMLError, OmegaConfBaseException) as error:
            unreadable = Problem(f"{file} is not readable yaml: {' '.join(str(error).split())}")
            raise InputError(f"recipe '{name}' does not compose", [unreadable]) from error
        ConfigStore.instance().store(group="recipe", name=name, node=node, package="_global_")


def _compose_tree(root: str, folder: Path, words: list[str]) -> DictConfig:
    with initialize_config_dir(str(folder), version_base=VERSION_BASE):
        return hydra_compose(root, overrides=words, return_hydra_config=True)


def _option(group: str, name: str) -> DictConfig:
    """One option of one of our groups; each lies at `posttrain.<group>`. Hydra is asked only if it includes others."""
    node = _load(paths.conf_dir() / group / f"{name}.yaml")
    if "defaults" not in node:
        return node
    return cast(DictConfig, _compose_tree(f"{group}/{name}", paths.conf_dir(), []).posttrain[group])


def _replace_options(tree: DictConfig, asked: Overrides) -> list[Change]:
    """Put options that the hardware can carry in the place of those it cannot and the user did not touch.

    Only the group is composed again: the whole tree would take most of a second.
    """
    touched = set(asked.options) | {key.split(".")[1] for key in asked.keys if key.startswith("posttrain.")}
    changes = hardware.choices(tree.posttrain.hardware, tree.hydra.runtime.choices, touched)
    OmegaConf.set_struct(tree, False)
    for change in changes:
        tree.posttrain[change.key] = _option(change.key, change.new)
        tree.hydra.runtime.choices[change.key] = change.new
    return changes


def _split(tree: DictConfig, overrides: list[str], user_keys: frozenset[str], changes: list[Change]) -> Composed:
    """Cut the composed tree into VeRL's part and ours."""
    choices = plain(tree.hydra.runtime.choices)
    ours = cast(dict[str, Any], OmegaConf.to_container(tree.posttrain, resolve=True, throw_on_missing=True))
    _check_ours(ours, choices["recipe"])
    verl = {k: _without_ours(v, tree, k) for k, v in plain(tree).items() if k not in ("posttrain", "hydra")}
    return Composed(recipe=choices["recipe"], stage=ours["stage"], verl=OmegaConf.create(verl),
                    posttrain=OmegaConf.create(ours), changes=changes, overrides=list(overrides), choices=choices,
                    user_keys=user_keys)  # fmt: skip


def _check_ours(ours: dict[str, Any], recipe: str) -> None:
    """The folders of the run must be nameable before anything looks at them, and switches be switches."""
    problems = [
        Problem(f"posttrain.{key}={ours[key]} is no folder", f"leave it out, or posttrain.{key}=/some/folder")
        for key in ("data_dir", "runs_dir")
        if not isinstance(ours[key], str) or not ours[key]
    ]
    if not problems:
        problems = [
            found for key in ("data_dir", "runs_dir") for found in options.folder(f"posttrain.{key}", ours[key])
        ]
    problems += [
        Problem(f"posttrain.{key}={ours[key]} is neither true nor false", f"posttrain.{key}=true, or leave it out")
        for key in ("detach", "small_batch", "require_inspected")
        if not isinstance(ours[key], bool)
    ]
    if ours["run_id"] is not None and not _RUN_ID.fullmatch(str(ours["run_id"])):
        what = f"posttrain.run_id={ours['run_id']} is no name"
        remedy = "give at most 100 letters, digits and . _ + = -, a letter or digit first; posttrain.runs_dir moves the folder"
        problems.append(Problem(what, remedy))
    if problems:
        raise InputError(f"recipe '{recipe}' does not compose", problems)


def _load(file: Path) -> DictConfig:
    return cast(DictConfig, OmegaConf.load(file))


def _without_ours(value: Any, tree: DictConfig, key: str) -> Any:
    """`value`, the content of `tree` at `key`, with every interpolation into `posttrain` replaced by what it means."""
    if isinstance(value, dict):
        return {k: _without_ours(v, tree, f"{key}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [_without_ours(v, tree, f"{key}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, str) and "${posttrain." in value:
        return OmegaConf.select(tree, key, throw_on_missing=True)
    return value
