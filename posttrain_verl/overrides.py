"""The overrides of the command line, read as Hydra reads them: options of groups, and values of keys."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException

from posttrain_verl import own_reward, paths
from posttrain_verl.paths import OUR_GROUPS
from posttrain_verl.terminal.problem import InputError, Problem, one_of
from posttrain_verl.verl.settings import RewardSettings
from reward_fns import own

OTHER_VERBS = {
    "eval": "python -m posttrain_verl.evaluate takes it",
    "pipeline": "python -m posttrain_verl.pipeline recipe=NAME",
}


@dataclass(frozen=True)
class Overrides:
    """The overrides as Hydra should see them, the options they name by group, and the keys whose values they set."""

    rewritten: list[str]
    options: dict[str, str]
    keys: frozenset[str]


def read_overrides(given: list[str], sweep: bool = False) -> Overrides:
    """Read the overrides of a command line, e.g. `["recipe=math_grpo", "data.train_batch_size=64"]`.

    With `sweep` an override may name several values; of the options the last is kept then, and each is checked.

    Raises:
        InputError: an argument that is not an override, an unwanted sweep, no recipe, or an option that does not exist.
    """
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
        with_address = [f"cluster={name}" for name in paths.names("cluster") if _has_address(name)]
        if not any(f"{group}={name}" in with_address for group, name in named):
            problems.append(
                Problem(f"address= is that of a head, of {', '.join(with_address)}", f"add {with_address[0]}")
            )
    if "recipe" not in dict(named):
        problems.append(
            Problem("no recipe is named", f"add recipe=NAME; there are: {', '.join(paths.names('recipe'))}")
        )
    for group, name in named:
        if group in OUR_GROUPS and name not in (known := paths.names(group)):
            problems.append(Problem(f"{group}={name} is unknown", one_of(name, known, f"{group}=")))
    if problems:
        raise InputError("nothing to launch", problems)
    return Overrides(rewritten, dict(named), keys)


def _has_address(cluster: str) -> bool:
    text = (paths.conf_dir() / "cluster" / f"{cluster}.yaml").read_text(encoding="utf-8")
    return any(line.startswith("address:") for line in text.splitlines())


def rewrite_override(given: str) -> list[str]:
    """An override of the command line as Hydra should see it.

    A folder in `base_model=` becomes the option `folder` with its path, since Hydra does not take a path for an option. A reward
    of the user's own becomes keys of VeRL. Values are forced (`++`): whether a key exists is decided by
    `preflight.config_form`, for yaml and command line alike.
    """
    key, _, value = given.partition("=")
    if key == "base_model" and _is_folder_path(value):
        folder = Path(value).expanduser().absolute()
        return ["base_model=folder", f"++posttrain.base_model.path={quote_value(str(folder))}",
                f"++posttrain.base_model.name={quote_value(folder.name)}"]  # fmt: skip
    if (of_reward := rewrite_reward(given)) is not None:
        return of_reward
    plain = {"address": "posttrain.cluster.address"}.get(key, key.lstrip("+"))
    if not value or key.startswith(("~", "hydra.")) or _is_group_key(plain):
        return [given]
    return [f"++{plain}={value}"]


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


def _is_folder_path(value: str) -> bool:
    """Whether a value of `base_model=` is a folder's path; several values, or none, are not a path."""
    if not value or "," in value:
        return False
    return "/" in value or (Path(value).is_dir() and value not in paths.names("base_model"))


def quote_value(text: str) -> str:
    """`text` as a value in Hydra's grammar, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


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
            problems.append(Problem(f"'{each}' is not a key=value", "write key=value"))
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
