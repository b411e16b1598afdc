"""How Hydra and VeRL's config tree meet: a recipe and overrides become a complete config of VeRL.

VeRL's tree lies at the root, our keys under one node `posttrain`, which is taken away before VeRL sees the config.
Recipes, and options of our groups that the user wrote, are registered with Hydra; they win over files of conf/ (hydra_plugins).
Nothing here imports VeRL or torch: composing takes about a second.
"""

from __future__ import annotations

import importlib.metadata
import re
import threading
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.errors import HydraException, MissingConfigException
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from posttrain_verl import own_reward, paths
from posttrain_verl.base_models import naming
from posttrain_verl.machine import devices
from posttrain_verl.overrides import OUR_GROUPS, Overrides, expand_keys, read_overrides
from posttrain_verl.plan import adapt
from posttrain_verl.terminal.command_line import obstacle
from posttrain_verl.terminal.problem import InputError, Problem, one_of
from posttrain_verl.verl import renamed
from posttrain_verl.verl.composed import Change, Composed
from posttrain_verl.verl.schema import read_yaml
from posttrain_verl.verl.settings import format_value
from posttrain_verl.verl.stage import Stage, is_number, stage_named

VERSION_BASE = "1.3"
LISTS = ("evals", "skip")  # keys below `posttrain` that hold names
_RUN_ID = re.compile(r"[A-Za-z0-9][\w.+=-]{0,99}", re.ASCII)  # it names a folder, a job, and is searched for

_HYDRA_LOCK = threading.RLock()
_own_stores: list[ConfigStore] = []  # those of the `own_hydra` that are open
_HYDRAS_OWN = ("hydra", "_")  # how the names of Hydra's own configs and those of its plugins begin

OmegaConf.register_new_resolver("verl_config_dir", lambda: str(paths.verl_config_dir()), replace=True)


@contextmanager
def own_hydra() -> Iterator[None]:
    """Hydra for us alone: what it keeps for a whole process is set aside, and is afterwards as it was.

    The program may run under `hydra.main`, and its threads may compose at once; they wait for each other. The store of configs
    begins with those of Hydra and its plugins, and inside another `own_hydra` also with what is registered there.
    """
    with _HYDRA_LOCK:
        Plugins.instance()  # which add to the store when they are first looked for
        kinds: tuple[Any, ...] = (GlobalHydra, HydraConfig, VersionBase, ConfigStore)
        theirs = ConfigStore.instance()
        before = {kind: Singleton._instances.pop(kind, None) for kind in kinds}
        ours = ConfigStore.instance()
        ours.repo = {name: dict(node) if isinstance(node, dict) else node for name, node in theirs.repo.items()
                     if _own_stores or name.startswith(_HYDRAS_OWN)}  # fmt: skip
        _own_stores.append(ours)
        try:
            yield
        finally:
            _own_stores.remove(ours)
            for kind, instance in before.items():
                Singleton._instances.pop(kind, None)
                if instance is not None:
                    Singleton._instances[kind] = instance


def compose(overrides: list[str], fixed: frozenset[str] | None = None) -> Composed:
    """Compose a launch from overrides, e.g. `["recipe=math_grpo", "base_model=tiny"]`.

    The hardware does not touch a key of `fixed`; by default those are all that the overrides set. Threads may call it at once.

    Raises:
        InputError: an override that cannot be read, an unknown recipe, model, mix or hardware, or a tree that does not
            compose. Keys that VeRL does not know compose; `preflight.config_form` reports them.
    """
    with own_hydra():
        return _compose_launch(overrides, fixed)


def _compose_launch(overrides: list[str], fixed: frozenset[str] | None) -> Composed:
    overrides = expand_keys(overrides)
    asked = read_overrides(overrides)
    recipe, machine = asked.options["recipe"], asked.options.get("hardware", "auto")
    wanted = {**asked.files, ("recipe", recipe): find_file("recipe", recipe, asked.files)}
    register_options(paths.own_options() | wanted, {*wanted, *asked.options.items()})
    found = devices.detect_machine() if machine == "auto" else None
    of_hydra = [*asked.rewritten, f"hardware={found.name if found else machine}"]
    title = f"recipe '{recipe}' does not compose"
    try:
        tree = _compose_tree("launch", paths.conf_dir(), of_hydra)
        _check_our_nodes(tree, title)
        if found:
            adapt.describe_machine(tree.posttrain.hardware, found)
        stage = _find_stage(tree.posttrain.stage, title)
        if any(each.startswith("~") for each in asked.rewritten) or not all(map(OmegaConf.is_dict, tree.values())):
            _check_verl_nodes(tree, stage, title)
        fixed_keys = asked.keys if fixed is None else fixed
        OmegaConf.set_struct(tree, False)
        _describe_hub_model(tree.posttrain.base_model)
        changes = _replace_options(tree, asked)
        changes += adapt.apply_hardware(tree, fixed_keys, found)
        _follow_curriculum(tree, stage)
        stage.complete(tree, fixed_keys)
        changes += adapt.fit_memory(tree, fixed_keys, asked.options)
        choices = to_plain_dict(tree.hydra.runtime.choices)
        ours = cast(dict[str, Any], OmegaConf.to_container(tree.posttrain, resolve=True, throw_on_missing=True))
        for key in LISTS:
            if isinstance(ours[key], str):  # one name is a list of one
                ours[key] = [ours[key]]
        _check_our_keys(ours, choices["recipe"])
        verl = {k: _without_ours(v, tree, k) for k, v in to_plain_dict(tree).items() if k not in ("posttrain", "hydra")}
        # `user_keys` are what the user set; `fixed_keys` may be fewer, since a rehearsal lets the hardware change the others.
        return Composed(recipe=choices["recipe"], stage=stage, verl=OmegaConf.create(verl),
                        posttrain=OmegaConf.create(ours), changes=changes, overrides=list(overrides), choices=choices,
                        user_keys=asked.keys, machine=found,
                        files={group: find_file(group, choices[group], asked.files) for group in OUR_GROUPS})  # fmt: skip
    except RecursionError:
        remedy = "copy that recipe; a recipe stands on /sft or /rl, and not on another"
        raise InputError(title, [Problem(f"the defaults of recipe {recipe} include a recipe", remedy)]) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(title, [_explain(error)]) from error


def _explain(error: Exception) -> Problem:
    """What Hydra or OmegaConf refuses, in words of the recipe's defaults list where it is about that."""
    text = " ".join(
        (str(error) or str(error.__cause__)).split()
    )  # Hydra wraps an error of OmegaConf in one that says nothing
    missing = (error.missing_cfg_file or "") if isinstance(error, MissingConfigException) else ""
    group, slash, name = missing.removesuffix(".yaml").lstrip("/").partition("/")
    if slash and group in OUR_GROUPS:
        what = f"the defaults name {group} {name}, and conf/{group} has no such file"
        if group == "base_model" and "/" in name:
            own = f"conf/base_model/NAME.yaml with `path: {name}`"
            return Problem(what, f"leave it out and give base_model={name}, or write {own} and name that")
        return Problem(what, one_of(name, paths.names(group), f"override /{group}: "))
    if slash and (options := error.options if isinstance(error, MissingConfigException) else None):
        return Problem(
            f"{group}={name} is unknown: VeRL has no such option", one_of(name, sorted(options), f"{group}=")
        )
    if missing:
        return Problem(
            f"the defaults name {group}{slash}{name}, which is not a file of conf/", "a recipe stands on /sft or /rl"
        )
    if unknown := re.search(r"Could not override '/?([^']+)'", text):
        return Problem(
            f"the defaults override {unknown[1]}, which they do not name before", one_of(unknown[1], OUR_GROUPS, "/")
        )
    return Problem(text.removesuffix(" object_type=dict"), "correct the override, or the yaml, that says so")


def _replace_options(tree: DictConfig, asked: Overrides) -> list[Change]:
    """Replace the options that the machine cannot carry, and return what changed. What the user wrote or named is meant."""
    chosen = tree.hydra.runtime.choices
    touched = set(asked.options) | {key.split(".")[1] for key in asked.keys if key.startswith("posttrain.")}
    touched |= {
        group for group in OUR_GROUPS if not paths.is_shipped(group, find_file(group, chosen[group], asked.files))
    }
    changes = adapt.choose_options(tree.posttrain.hardware, chosen, touched)
    for change in changes:  # composing the whole tree again would take most of a second
        tree.posttrain[change.key] = read_option(change.key, find_file(change.key, str(change.new)))
        chosen[change.key] = change.new
    return changes


def _describe_hub_model(model: DictConfig) -> None:
    """Fill in the config.json of a model of the hub that conf/base_model does not describe: the plan needs its shape."""
    path = str(model.get("path"))
    if model.get("config") is None and naming.is_hub_id(path) and not Path(path).is_dir():
        model.config = naming.fetch_config(path)


def _follow_curriculum(tree: DictConfig, stage: Stage) -> None:
    """Train in the order of the rows where a training file is a curriculum of the mix, unless the order is set."""
    settings = stage.settings(tree)
    if settings.shuffles is None:
        files = settings.train_files
        named = files if OmegaConf.is_list(files) else [files]
        settings.put("shuffles", not any(is_curriculum(tree.posttrain, str(file)) for file in named))


def is_curriculum(posttrain: DictConfig, file: str | Path) -> bool:
    """Whether a file is a split of the launch's mix that the mix declares with more than one stage."""
    path, mix = Path(file).expanduser().absolute(), posttrain.mix
    if path.parent != Path(str(posttrain.data_dir)).expanduser().absolute() / str(mix.get("name")):
        return False
    found: Any = to_plain_dict(mix)
    for key in ("splits", path.stem, "stages"):
        found = found.get(key) if isinstance(found, dict) else None
    stages = found if isinstance(found, list) else []  # the check of the mix reports anything else
    return sum(isinstance(stage, dict) and stage.get("share") != 0 for stage in stages) > 1


def _check_our_nodes(tree: DictConfig, title: str) -> None:
    """`posttrain` and its groups must hold keys. Raises InputError: a recipe makes one of them null or a value."""
    nodes = {"posttrain": tree.posttrain}
    if OmegaConf.is_dict(tree.posttrain):
        ours = [*(group for group in OUR_GROUPS if group != "recipe"), "reward"]
        nodes = {f"posttrain.{key}": tree.posttrain[key] for key in ours}
    problems = [
        Problem(f"{key}={format_value(value)} is a value where posttrain_verl has keys", "take it out of the recipe")
        for key, value in nodes.items()
        if not OmegaConf.is_dict(value)
    ]
    if problems:
        raise InputError(title, problems)


def _find_stage(name: str, title: str) -> Stage:
    try:
        return stage_named(name)
    except KeyError:
        trunks = ", ".join(sorted(file.stem for file in paths.conf_dir().glob("*.yaml") if file.stem != "launch"))
        remedy = f"name that of a trunk in conf/ ({trunks}), or a module of posttrain_verl/verl that registers one (docs/verl.md)"
        raise InputError(title, [Problem(f"posttrain.stage={name} is not a stage", remedy)]) from None


def _check_verl_nodes(tree: DictConfig, stage: Stage, title: str) -> None:
    """The nodes at the root of VeRL's tree must hold keys, since all that follows reads below them.

    Raises:
        InputError: one of them is null or a value, or was removed.
    """
    theirs = verl_tree(stage, to_plain_dict(tree.hydra.runtime.choices))
    problems = []
    for key in (key for key, value in theirs.items() if isinstance(value, dict)):
        below = next((name for name in theirs[key] if not name.startswith("_")), "KEY")
        remedy = f"leave it out, or set a key below it, e.g. {key}.{below}=..."
        if key not in tree:
            problems.append(Problem(f"{key} was removed, and VeRL reads it", remedy))
        elif not OmegaConf.is_dict(tree[key]):
            problems.append(Problem(f"{key}={format_value(tree[key])} is a value where VeRL has keys", remedy))
    if problems:
        raise InputError(title, problems)


def verl_tree(stage: Stage, choices: dict[str, str]) -> dict[str, Any]:
    """VeRL's own tree of the stage, unresolved, with the same choices of VeRL's groups and the keys of the stage's own.

    It is read once for the same choices, so nobody changes what is returned.
    """
    theirs = ((group, option) for group, option in choices.items()
              if group not in OUR_GROUPS and not group.startswith("hydra/"))  # fmt: skip
    return _read_verl_tree(stage, tuple(sorted(theirs)))


@cache
def _read_verl_tree(stage: Stage, choices: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    tree = stage.shipped_tree(dict(choices))
    if tree is None:
        # A group with ".." in its name is one that VeRL's own option includes; it follows from that option.
        overrides = [f"{group}={option}" for group, option in choices if ".." not in group]
        try:
            with own_hydra():
                tree = to_plain_dict(_compose_tree(stage.trunk, paths.verl_config_dir(), overrides))
        except HydraException as error:  # groups of another trunk than the stage's
            problem = Problem(
                " ".join(str(error).split()), f"posttrain.stage={stage.name} belongs to its own trunk in conf/"
            )
            raise InputError("the recipe does not compose", [problem]) from error
        del tree["hydra"]
    for key, default in stage.settings_type.own_keys().items():
        node, (*parents, leaf) = tree, key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = default
    return tree


def our_tree(composed: Composed) -> dict[str, Any]:
    """Our own keys below `posttrain`: those of launch.yaml, and those of the chosen options.

    An option of the user's may have the keys that any shipped option of its group has. Nobody changes what is returned.
    """
    return _read_our_tree(tuple((group, file) for group, file in composed.files.items() if group != "recipe"))


@cache
def _read_our_tree(files: tuple[tuple[str, Path], ...]) -> dict[str, Any]:
    tree: dict[str, Any] = read_yaml(paths.conf_dir() / "launch.yaml")["posttrain"]
    for group, file in files:
        shipped = [file] if paths.is_shipped(group, file) else sorted(paths.shipped_folder(group).glob("*.yaml"))
        tree[group] = to_plain_dict(cast(DictConfig, OmegaConf.merge(*(read_option(group, each) for each in shipped))))
    return tree


def verl_version() -> str:
    """The version of the installed VeRL, read without importing it."""
    return importlib.metadata.version("verl")


def to_plain_dict(node: DictConfig) -> dict[str, Any]:
    """A node of a config as dicts and lists, interpolations as they are written."""
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))


def find_file(group: str, name: str, given: Mapping[tuple[str, str], Path] | None = None) -> Path:
    """The file of an option: that of `given`, which the command line names by its path, or the one that is found by its name."""
    file = (given or {}).get((group, name)) or paths.find_option(group, name)
    assert file is not None, f"{group}={name}"  # `read_overrides` and Hydra refuse others
    return file


def register_options(files: Mapping[tuple[str, str], Path], wanted: Container[tuple[str, str]] = ()) -> None:
    """Store recipes and options of the user's with Hydra, by group and name. Called inside `own_hydra`, which forgets them.

    A file that is not `wanted` and cannot be read is left out: the folder may hold files of other programs.

    Raises:
        InputError: a file that is wanted is not readable yaml.
    """
    store = ConfigStore.instance()
    for (group, name), file in files.items():
        try:
            node = _load_yaml(file) if group == "recipe" else _complete_option(group, file)
        except (YAMLError, OmegaConfBaseException, ValueError) as error:
            if (group, name) not in wanted:
                continue
            unreadable = Problem(f"{file} is not readable yaml: {' '.join(str(error).split())}", "correct the file")
            raise InputError(f"{group} '{name}' does not compose", [unreadable]) from error
        if group == "recipe":
            node = _under_current_names(node) if renamed.RENAMED else node
            own_reward.place_beside(node, file)
        store.store(
            group=group, name=name, node=node, package="_global_" if group == "recipe" else f"posttrain.{group}"
        )


# What a user's option of a group leaves out is taken from this one. That of a cluster is the kind that its `name` names.
_BASES = {"base_model": "folder", "hardware": "auto", "watch": "default"}


def _complete_option(group: str, file: Path) -> DictConfig:
    """An option of the user's over the shipped one that it stands on; without a `name` it has that of its file.

    Raises:
        ValueError: it is not a mapping.
    """
    node = OmegaConf.load(file)
    if not isinstance(node, DictConfig):
        raise ValueError("it is not a mapping; write `key: value` lines")
    own = {"name": file.stem} | ({"nnodes": 1} if group == "hardware" else {})
    named = node if group == "cluster" else OmegaConf.merge(own, node)
    base = paths.shipped_folder(group) / f"{node.get('name') if group == 'cluster' else _BASES.get(group)}.yaml"
    return cast(DictConfig, OmegaConf.merge(_load_yaml(base), named) if base.is_file() else named)


def _under_current_names(recipe: DictConfig) -> DictConfig:
    """A recipe with VeRL's keys under the names of the installed VeRL, on a trunk of the same."""
    tree = renamed.translate(to_plain_dict(recipe))
    for place, entry in enumerate(tree.get("defaults", ())):
        file = paths.conf_dir() / f"{str(entry).removeprefix('/')}.yaml"
        if isinstance(entry, str) and file.is_file():
            trunk = renamed.translate(to_plain_dict(_load_yaml(file)))
            name = f"{file.stem}_under_current_names"
            ConfigStore.instance().store(name=name, node=trunk, package="_global_")
            tree["defaults"][place] = f"/{name}"
    return OmegaConf.create(tree)


def _compose_tree(root: str, folder: Path, overrides: list[str]) -> DictConfig:
    with initialize_config_dir(str(folder), version_base=VERSION_BASE):
        return hydra_compose(root, overrides=overrides, return_hydra_config=True)


def read_option(group: str, file: Path) -> DictConfig:
    """One option of one of our groups, as it lies at `posttrain.<group>`. Hydra is asked only if it includes others."""
    node = _load_yaml(file) if paths.is_shipped(group, file) else _complete_option(group, file)
    if "defaults" not in node:
        return node
    with own_hydra():
        register_options(paths.own_options() | {(group, file.stem): file})
        return cast(DictConfig, _compose_tree(f"{group}/{file.stem}", paths.conf_dir(), []).posttrain[group])


def _check_our_keys(ours: dict[str, Any], recipe: str) -> None:
    """Folders must be nameable before anything looks at them, switches be switches, and lists be lists."""
    problems = []
    for key in ("data_dir", "runs_dir"):
        given = f"posttrain.{key}={ours[key]}"
        if not isinstance(ours[key], str) or not ours[key]:
            problems.append(Problem(f"{given} is not a folder", f"leave it out, or posttrain.{key}=/some/folder"))
        elif found := obstacle(Path(ours[key])):
            problems.append(Problem(f"{given}: {found} is a file", "name a folder"))
    for key in ("detach", "small_batch", "require_inspected"):
        if not isinstance(ours[key], bool):
            what = f"posttrain.{key}={ours[key]} is neither true nor false"
            problems.append(Problem(what, f"posttrain.{key}=true, or leave it out"))
    right_at = ours["reward"].get("right_at")
    if right_at is not None and not is_number(right_at):
        what = f"posttrain.reward.right_at={right_at} is not a number"
        remedy = "give the score from which on an answer is right, e.g. posttrain.reward.right_at=1.0, or leave it out"
        problems.append(Problem(what, remedy))
    for key in LISTS:
        if not isinstance(ours[key], list | None):
            problems.append(Problem(f"posttrain.{key}={ours[key]} is not a list", f"posttrain.{key}=[NAME,...]"))
    if ours["run_id"] is not None and not _RUN_ID.fullmatch(str(ours["run_id"])):
        what = f"posttrain.run_id={ours['run_id']} is not a name"
        remedy = "give at most 100 letters, digits and . _ + = -, a letter or digit first; posttrain.runs_dir moves the folder"
        problems.append(Problem(what, remedy))
    if problems:
        raise InputError(f"recipe '{recipe}' does not compose", problems)


def _load_yaml(file: Path) -> DictConfig:
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
