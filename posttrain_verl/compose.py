"""The only module that knows how Hydra and VeRL's config tree meet.

VeRL's tree lies at the root, our keys under one node `posttrain`, which is taken away before VeRL sees the config.
Recipes are registered as the Hydra group `recipe` from recipes/ of the package and of the current folder.
Nothing here imports VeRL or torch: composing takes about a second.
"""

from __future__ import annotations

import difflib
import importlib.metadata
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from posttrain_verl import hardware, paths
from posttrain_verl.hardware import Change
from posttrain_verl.problem import InputError, Problem

TRUNKS = {"rl": "ppo_trainer", "sft": "sft_trainer_engine"}
OUR_GROUPS = ("recipe", "base_model", "mix", "hardware")
VERSION_BASE = "1.3"

OmegaConf.register_new_resolver("verl_config_dir", lambda: str(paths.verl_config_dir()), replace=True)


@dataclass(frozen=True)
class Composed:
    """One launch, composed.

    `verl` is what VeRL gets, but for the paths of the run (see `for_run`); `posttrain` holds our keys; `changes` says
    what the hardware set; `overrides` are the user's own, with which the same launch composes again; `choices` maps
    each Hydra group to its option; `user_keys` are the keys set on the command line.
    """

    recipe: str
    stage: str
    verl: DictConfig
    posttrain: DictConfig
    changes: list[Change] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)
    user_keys: frozenset[str] = frozenset()

    @property
    def model(self) -> str:
        """The name of an embedded model, a folder, or a hub id."""
        return str(self.posttrain.base_model.path)

    @property
    def data_dir(self) -> Path:
        """The folder of the mix: Parquet and manifest.json."""
        return Path(self.posttrain.data_dir).expanduser().absolute() / self.posttrain.mix.name

    def run_dir(self, now: datetime | None = None) -> Path:
        """`<runs_dir>/<recipe>/<run_id>`, absolute; without `posttrain.run_id` the id is the time."""
        run_id = self.posttrain.run_id or (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
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
            OmegaConf.update(config, key, _absolute(OmegaConf.select(config, key)))
        if model is not None:
            _replace_values(config, self.model, str(model))
        return config

    def _run_paths(self, run_dir: Path) -> dict[str, str]:
        common = {"trainer.default_local_dir": str(run_dir / "checkpoints"),
                  "trainer.experiment_name": f"{self.recipe}/{run_dir.name}"}  # fmt: skip
        if self.stage == "sft":
            return common
        return common | {"trainer.rollout_data_dir": str(run_dir / "rollouts"),
                         "trainer.validation_data_dir": str(run_dir / "validation")}  # fmt: skip


def compose(overrides: list[str]) -> Composed:
    """Compose a launch from the words of the command line, e.g. `["recipe=math_grpo", "base_model=tiny"]`.

    Raises:
        InputError: a word that cannot be read, an unknown recipe, model, mix or hardware, or a tree that does not
            compose. Keys that VeRL does not know compose; `preflight.keys` reports them.
    """
    words = [rewritten for word in overrides for rewritten in rewrite(word)]
    parsed = _parse(words)
    groups = {o.key_or_group: str(o.value()) for o in parsed if _is_group(o)}
    _check_groups(groups)
    register_recipes([groups["recipe"]])
    title = f"recipe '{groups['recipe']}' does not compose"
    machine = groups.get("hardware", "auto")
    found = hardware.detect() if machine == "auto" else None
    words = [w for w, o in zip(words, parsed, strict=True) if o.key_or_group != "hardware"]
    words.append(f"hardware={found.name if found else machine}")
    tree = _compose_tree("launch", paths.conf_dir(), words, title)
    chosen = hardware.choices(tree.posttrain.hardware, _ours(tree), user=set(groups))
    if chosen:
        tree = _compose_tree("launch", paths.conf_dir(), words + [f"{c.key}={c.new}" for c in chosen], title)
    user_keys = frozenset(o.key_or_group for o in parsed if not _is_group(o))
    return _split(tree, overrides, user_keys, chosen, found, title)


def verl_tree(stage: str, choices: dict[str, str]) -> DictConfig:
    """VeRL's own tree of the stage with the same choices of VeRL's groups: the keys that VeRL knows."""
    words = [f"{g}={c}" for g, c in choices.items() if g not in OUR_GROUPS and not g.startswith("hydra/")]
    return _compose_tree(TRUNKS[stage], paths.verl_config_dir(), words, "VeRL's own config does not compose")


def names(group: str) -> list[str]:
    """The names that exist in one of our groups, sorted."""
    folders = _recipe_folders() if group == "recipe" else [paths.conf_dir() / group]
    return sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})


def nearest(word: str, known: list[str]) -> str | None:
    """The nearest of the known words, if one is near."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.6)), None)


def verl_version() -> str:
    """The version of the installed VeRL, read without importing it."""
    return importlib.metadata.version("verl")


def register_recipes(wanted: list[str]) -> None:
    """Store the named recipes as the Hydra group `recipe`; a file of the current folder wins over a shipped one.

    Raises:
        InputError: a recipe is not readable yaml.
    """
    for name in wanted:
        file = next(folder / f"{name}.yaml" for folder in _recipe_folders() if (folder / f"{name}.yaml").is_file())
        try:
            node = OmegaConf.load(file)
        except (YAMLError, OmegaConfBaseException) as error:
            raise InputError(f"recipe '{name}' does not compose", [Problem(f"{file} is not readable: {error}")]) from error
        ConfigStore.instance().store(group="recipe", name=name, node=node, package="_global_")


def rewrite(word: str) -> list[str]:
    """One word of the command line as Hydra should see it.

    A folder in `base_model=` becomes the option `folder` with its path, since a path is no name of a Hydra option.
    Values are forced (`++`): whether a key exists is decided by `preflight.keys`, for yaml and command line alike.
    """
    key, _, value = word.partition("=")
    if key == "base_model" and _is_path(value):
        folder = Path(value).expanduser().absolute()
        return ["base_model=folder", f"++posttrain.base_model.path={_quoted(str(folder))}",
                f"++posttrain.base_model.name={_quoted(folder.name)}"]  # fmt: skip
    plain = key.lstrip("+")
    if not value or key.startswith("~") or _is_group_key(plain):
        return [word]
    return [f"++{plain}={value}"]


def _is_path(value: str) -> bool:
    return "," not in value and ("/" in value or (Path(value).is_dir() and value not in names("base_model")))


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _is_group_key(key: str) -> bool:
    group = key.partition("@")[0]
    return group in OUR_GROUPS or group.startswith("hydra") or (paths.verl_config_dir() / group).is_dir()


def _is_group(override: Override) -> bool:
    return _is_group_key(override.key_or_group)


def _recipe_folders() -> list[Path]:
    return [Path.cwd() / "recipes", paths.recipes_dir()]


def _parse(words: list[str]) -> list[Override]:
    parser, parsed, problems = OverridesParser.create(), [], []
    for word in words:
        try:
            parsed.append(parser.parse_override(word))
        except HydraException as error:
            problems.append(Problem(f"'{word}' is no override: {str(error).splitlines()[0]}", "write key=value"))
    if problems:
        raise InputError("the command line cannot be read", problems)
    return parsed


def _check_groups(groups: dict[str, str]) -> None:
    """Every option of our groups must exist, and a recipe must be named."""
    problems = []
    if "recipe" not in groups:
        problems.append(Problem("no recipe is named", f"add recipe=NAME; there are: {', '.join(names('recipe'))}"))
    for group in OUR_GROUPS:
        name, known = groups.get(group), names(group)
        if name is not None and name not in known:
            problems.append(_unknown_option(group, name, known))
    if problems:
        raise InputError("nothing to launch", problems)


def _unknown_option(group: str, name: str, known: list[str]) -> Problem:
    near = nearest(name, known)
    hint = f"did you mean {group}={near}? " if near else ""
    return Problem(f"{group}={name} is unknown", f"{hint}there are: {', '.join(known)}")


def _compose_tree(root: str, folder: Path, words: list[str], title: str) -> DictConfig:
    try:
        with initialize_config_dir(str(folder), version_base=VERSION_BASE):
            return hydra_compose(root, overrides=words, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(title, [Problem(_first_lines(error))]) from error


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _ours(tree: DictConfig) -> dict[str, str]:
    return {group: tree.hydra.runtime.choices[group] for group in OUR_GROUPS}


def _split(tree: DictConfig, overrides: list[str], user_keys: frozenset[str], chosen: list[Change],
           found: hardware.Machine | None, title: str) -> Composed:  # fmt: skip
    """Cut the composed tree into VeRL's part and ours, and let the hardware set what the user did not."""
    choices = OmegaConf.to_container(tree.hydra.runtime.choices)
    OmegaConf.set_struct(tree, False)
    changes = chosen + hardware.apply(tree, user_keys, found)
    try:
        content = OmegaConf.to_container(tree, resolve=False)
        ours = OmegaConf.to_container(tree.posttrain, resolve=True)
        verl = {key: _without_ours(value, tree) for key, value in content.items() if key not in ("posttrain", "hydra")}
    except OmegaConfBaseException as error:
        raise InputError(title, [Problem(_first_lines(error))]) from error
    return Composed(recipe=choices["recipe"], stage=ours["stage"], verl=OmegaConf.create(verl),
                    posttrain=OmegaConf.create(ours), changes=changes, overrides=list(overrides), choices=choices,
                    user_keys=user_keys)  # fmt: skip


def _without_ours(value: Any, tree: DictConfig) -> Any:
    """`value` with every interpolation into `posttrain` replaced by what it stands for."""
    if isinstance(value, dict):
        return {key: _without_ours(item, tree) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_ours(item, tree) for item in value]
    if isinstance(value, str) and "${posttrain." in value:
        return OmegaConf.select(OmegaConf.merge(tree, {"_value": value}), "_value", throw_on_missing=True)
    return value


def _absolute(files: Any) -> Any:
    """One path or a list of them, absolute; null and addresses such as s3://... stay."""
    if OmegaConf.is_list(files):
        return [_absolute(file) for file in files]
    if not isinstance(files, str) or "://" in files:
        return files
    return str(Path(files).expanduser().absolute())


def _replace_values(config: DictConfig, old: str, new: str) -> None:
    for key in ("actor_rollout_ref.model.path", "critic.model.path", "model.path"):
        if OmegaConf.select(config, key) == old:
            OmegaConf.update(config, key, new)
