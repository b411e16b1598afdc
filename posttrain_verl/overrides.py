"""The overrides of the command line, read as Hydra reads them: options of groups, and values of keys."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException

from posttrain_verl import own_reward, paths
from posttrain_verl.base_models import naming
from posttrain_verl.paths import OUR_GROUPS
from posttrain_verl.terminal.problem import InputError, Problem, one_of
from posttrain_verl.verl.schema import read_yaml
from posttrain_verl.verl.settings import RewardSettings
from reward_fns import own

OPTION_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)
OTHER_VERBS = {
    "eval": "python -m posttrain_verl.evaluate takes it",
    "pipeline": "python -m posttrain_verl.pipeline recipe=NAME",
}


@dataclass(frozen=True)
class Overrides:
    """The overrides as Hydra should see them, the options they name by group, and the keys whose values they set.

    `files` are the options that they name by the path of a yaml file, by group and name. `models` are the folders, models of the
    hub and runs among the values of a swept `base_model`, by the names of the options that stand for them.
    """

    rewritten: list[str]
    options: dict[str, str]
    keys: frozenset[str]
    files: dict[tuple[str, str], Path]
    models: dict[str, str]

    def typed_option(self, override: str) -> str:
        """An override as another command should get it, which finds an option of `files` by its path alone."""
        group, _, name = override.partition("=")
        if group == "base_model" and name in self.models:
            return f"{group}={self.models[name]}"
        return f"{group}={file}" if (file := self.files.get((group, name))) else override


def read_overrides(given: list[str], sweep: bool = False) -> Overrides:
    """Read the overrides of a command line, e.g. `["recipe=math_grpo", "data.train_batch_size=64"]`.

    With `sweep` an override may name several values; of the options the last is kept then, and each is checked.

    Raises:
        InputError: an argument that is not an override, an unwanted sweep, no recipe, or an option that does not exist.
    """
    models, given = _name_models(given)
    files, given = _name_files(given)
    files |= {("base_model", name): paths.shipped_folder("base_model") / "folder.yaml" for name in models}
    rewritten = [part for each in given for part in rewrite_override(each)]
    parsed = _parse_overrides(rewritten, sweep)
    named = []  # (group, option)
    for override in parsed:
        if _is_group_key(override.key_or_group):
            value = override.value()
            several = [] if override.is_sweep_override() else [value]  # a glob is Hydra's to expand
            options = value.list if isinstance(value, ChoiceSweep) else several
            named += [(override.key_or_group, str(option)) for option in options]
    keys = frozenset(o.key_or_group for o in parsed if not _is_group_key(o.key_or_group))
    problems = []
    if "posttrain.cluster.address" in keys:
        chosen = [
            files.get((group, name)) or paths.find_option(group, name) for group, name in named if group == "cluster"
        ]
        if not any(map(_has_address, chosen)):
            known = [name for name in paths.names("cluster") if _has_address(paths.find_option("cluster", name))]
            what = f"address= is that of a head, of {', '.join(f'cluster={name}' for name in known)}"
            problems.append(Problem(what, f"add cluster={known[0]}"))
    if "recipe" not in dict(named):
        problems.append(
            Problem("no recipe is named", f"add recipe=NAME; there are: {', '.join(paths.names('recipe'))}")
        )
    for group, name in named:
        if group in OUR_GROUPS and (group, name) not in files and name not in (known := paths.names(group)):
            is_pipeline = group == "recipe" and name in paths.names("pipeline")
            remedy = f"it is a pipeline: python -m posttrain_verl.pipeline recipe={name}\nor " if is_pipeline else ""
            remedy += one_of(name, known, f"{group}=")
            if group in ("recipe", "mix") and not (own := paths.own_folder(group)).is_dir():
                place = own.relative_to(Path.cwd())
                remedy += f"\nyour own lie in {place}/ of the folder that you start in, and {Path.cwd()} has none"
            problems.append(Problem(f"{group}={name} is unknown", remedy))
    if problems:
        raise InputError("nothing to launch", problems)
    return Overrides(rewritten, dict(named), keys, files, models)


def _name_models(given: list[str]) -> tuple[dict[str, str], list[str]]:
    """The folders, models of the hub and runs among several values of `base_model=`, which Hydra would not take for options.

    They are returned as typed, by names that Hydra takes, with the overrides that have these names.
    """
    models: dict[str, str] = {}
    named = []
    for override in given:
        key, _, value = override.partition("=")
        values = value.split(",") if key == "base_model" and "," in value else []
        for place, each in enumerate(values):
            found = None if each.startswith(naming.RUN_PREFIX) else naming.read_name(each)
            if found and not found.path:
                values[place] = found.option
            else:
                name = re.sub(r"[^A-Za-z0-9_.+-]", "_", each).lstrip("_.+-")
                while models.get(name, each) != each or name in paths.names(
                    "base_model"
                ):  # ./a/b and ./a_b, ./tiny and tiny
                    name += "_"
                values[place], models[name] = name, each
        named.append(f"{key}={','.join(values)}" if values else override)
    return models, named


def _name_files(given: list[str]) -> tuple[dict[tuple[str, str], Path], list[str]]:
    """The yaml files that options of our groups are given as, by group and name, and the overrides with those names.

    Raises:
        InputError: there is no such file, or its name cannot be that of an option, or is that of another file.
    """
    files: dict[tuple[str, str], Path] = {}
    named, problems = [], []
    for override in given:
        group, equals, value = override.partition("=")
        options = value.split(",") if equals and group in OUR_GROUPS else []
        for place, option in enumerate(options):
            if not option.endswith(paths.YAML_SUFFIXES):
                continue
            path, file = Path(option), paths.find_option(group, option)
            if file is None:
                remedy = f"{group}=FILE.yaml, or {group}=NAME: {one_of(path.stem, paths.names(group))}"
                problems.append(Problem(f"{group}={option} is not a file", remedy))
            elif not OPTION_NAME.fullmatch(file.stem):
                what = f"{group}={option}: {file.stem} names folders and cannot be typed without quotes"
                problems.append(Problem(what, "rename the file: letters, digits and . _ - +"))
            elif files.setdefault((group, file.stem), file) != file:
                what = f"{group}={option} and {files[group, file.stem]} have the same name"
                problems.append(Problem(what, "rename one of the files"))
            options[place] = path.stem
        named.append(f"{group}={','.join(options)}" if options else override)
    if problems:
        raise InputError("nothing to launch", problems)
    return files, named


def _has_address(file: Path | None) -> bool:
    """Whether clusters of the kind of this file of a cluster have an address."""
    kind = paths.shipped_folder("cluster") / f"{read_yaml(file).get('name')}.yaml" if file else None
    return bool(kind and kind.is_file() and "address" in read_yaml(kind))


def rewrite_override(given: str) -> list[str]:
    """An override of the command line as Hydra should see it.

    A folder or a model of the hub in `base_model=` becomes the option `folder` with its path: Hydra does not take a path for an
    option. A reward of the user's own becomes keys of VeRL. Values are forced (`++`): whether a key exists is decided by
    `preflight.config_form`, for yaml and command line alike.
    """
    key, _, value = given.partition("=")
    if key == "base_model" and "," not in value:
        named = naming.read_name(value)
        if named.path is None:
            return [f"base_model={named.option}"]
        return ["base_model=folder", f"++posttrain.base_model.path={quote_value(named.path)}",
                f"++posttrain.base_model.name={quote_value(named.path.rpartition('/')[2])}"]  # fmt: skip
    if (of_reward := rewrite_reward(given)) is not None:
        return of_reward
    plain = {"address": "posttrain.cluster.address"}.get(key, key.lstrip("+"))
    if plain == "posttrain.run_id" and re.fullmatch(r"[\w.+-]+", value) and value != "null":
        return [f"++{plain}={quote_value(value)}"]  # a name, also where yaml reads a number, as in 2026_11
    if not value or key.startswith(("~", "hydra.")) or _is_group_key(plain):
        return [given]
    return [f"++{plain}={value}"]


# `skip` is a node of VeRL's.
SHORT_KEYS = (
    "run_id",
    "runs_dir",
    "data_dir",
    "detach",
    "small_batch",
    "evals",
    "require_inspected",
    "sweep",
    "at_once",
)


def expand_keys(given: list[str]) -> list[str]:
    """The overrides with `posttrain.` before the keys of ours that may be typed without it, e.g. `run_id=first`.

    Raises InputError where a key is given under both names with different values.
    """
    expanded = [f"posttrain.{each}" if each.partition("=")[0] in SHORT_KEYS else each for each in given]
    typed: dict[str, tuple[str, str]] = {}  # how a key was typed first, and as which override
    problems = []
    for each, override in zip(given, expanded, strict=True):
        first, before = typed.setdefault(override.partition("=")[0], (each, override))
        if first.partition("=")[0] != each.partition("=")[0] and before != override:
            problems.append(Problem(f"{first} and {each} are two names of one key", "give one of them"))
    if problems:
        raise InputError("the command line cannot be read", problems)
    return expanded


def rewrite_reward(given: str) -> list[str] | None:
    """`reward=FILE.py:NAME` or `reward_kwargs.NAME=VALUE` as overrides of VeRL's keys; None for any other override.

    `reward` is a group of VeRL's, too, whose options keep their meaning. Several files are a sweep over rewards whose functions
    have one name. Raises InputError for a value that names no reward.
    """
    key, _, value = given.partition("=")
    plain = key.lstrip("+")
    if plain.startswith(own_reward.ARGUMENTS):
        return [f"++{RewardSettings.key('reward_arguments')}.{plain.removeprefix(own_reward.ARGUMENTS)}={value}"]
    if plain != own_reward.KEY or value in _verl_options(plain):
        return None
    words = [value[1:-1]] if value[:1] in "'\"" and value else re.split(r",(?=\s*(?:pkg:|[^,]*\.py))", value)
    title = "the command line cannot be read"
    try:
        named = [own.parse_word(word.strip()) for word in words]
    except ValueError as error:
        raise InputError(title, [Problem(f"reward={value}: {error}", own_reward.REMEDY)]) from None
    if len({each.name for each in named}) > 1:
        what = f"reward={value} names functions of several names, and a sweep is over files"
        raise InputError(title, [Problem(what, "give the functions one name")])
    paths_of_rewards = ",".join(each.path if each.file is None else quote_value(each.path) for each in named)
    return [
        f"++{RewardSettings.key('reward_path')}={paths_of_rewards}",
        f"++{RewardSettings.assign('reward_name', named[0].name)}",
    ]


def _verl_options(group: str) -> list[str]:
    """The options of a group of VeRL's."""
    return [file.stem for file in (paths.verl_config_dir() / group).glob("*.yaml")]


def as_sweep(override: str) -> str:
    """An option of our groups as a sweep of one.

    Hydra composes the parent of a multirun without the swept overrides. Without the recipe there is no `mix` to override,
    so when a recipe is swept the other options must be as well.
    """
    group, _, name = override.partition("=")
    return f"{group}=choice({name})" if group in OUR_GROUPS and name.replace("_", "").isalnum() else override


def quote_value(text: str) -> str:
    """`text` as a value in Hydra's grammar, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


TRAINED_KEYS = ("posttrain.base_model.name", "posttrain.base_model.run")


def name_trained(folder: Path, run: Path, step: int) -> list[str]:
    """The overrides that begin at the weights of a run, which lie in `folder`, and that say whose they are."""
    named = zip(TRAINED_KEYS, (f"{run.parent.name}-{run.name}-{step}", str(run)), strict=True)
    return [f"base_model={folder}", *(f"{key}={quote_value(value)}" for key, value in named)]


def sets_key(override: str, keys: tuple[str, ...]) -> bool:
    """Whether an override sets one of `keys`, or a key below one."""
    key = override.partition("=")[0].lstrip("+~")
    return any(key == one or key.startswith(f"{one}.") for one in keys)


def _is_group_key(key: str) -> bool:
    group = key.partition("@")[0]
    return group in OUR_GROUPS or group.startswith("hydra/") or (paths.verl_config_dir() / group).is_dir()


def _parse_overrides(rewritten: list[str], sweep: bool) -> list[Override]:
    parser, parsed, problems = OverridesParser.create(), [], []
    for each in rewritten:
        shown = f"'{each.lstrip('+')}'"
        if "=" not in each and not each.startswith("~"):
            meant = next(
                (f"did you mean {group}={each}?" for group in OUR_GROUPS if each in paths.names(group)),
                "write key=value",
            )
            problems.append(Problem(f"'{each}' is not a key=value", meant))
            continue
        try:
            override = parser.parse_override(each)
        except HydraException as error:
            what = f"{shown} cannot be read: {str(error).splitlines()[0]}"
            problems.append(Problem(what, "write key=value; what holds , [ ] { } or quotes is quoted: 'key=\"a,b\"'"))
            continue
        key = override.key_or_group
        if key in OTHER_VERBS:
            problems.append(Problem(f"{shown} is not for this verb", OTHER_VERBS[key]))
        if override.is_sweep_override() and not sweep:
            remedy = "add --multirun for a run each, or quote a value with a comma"
            problems.append(Problem(f"{shown} names several values", remedy))
        value = override.value()
        is_named = isinstance(value, str) or override.is_sweep_override() or override.is_delete()
        if _is_group_key(key) and not is_named:
            needed = f"{key} is a group of config files, and its value is the name of an option"
            problems.append(Problem(f"{shown} does not name an option", needed))
        if key in ("posttrain", *(f"posttrain.{group}" for group in OUR_GROUPS)):
            problems.append(Problem(f"{shown} replaces a whole node", "set a key below it, or GROUP=NAME"))
        parsed.append(override)
    if problems:
        raise InputError("the command line cannot be read", problems)
    return parsed
