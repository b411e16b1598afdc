"""The words of the command line, read as Hydra overrides: options of groups, and values of keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException

from posttrain_verl import paths
from posttrain_verl.problem import InputError, Problem, one_of

OUR_GROUPS = ("recipe", "base_model", "mix", "hardware", "cluster", "watch")
NOT_HERE = {
    "eval": "python -m posttrain_verl.evaluate takes it",
    "pipeline": "python -m posttrain_verl.pipeline recipe=NAME",
}


@dataclass(frozen=True)
class Overrides:
    """The words as Hydra should see them, the options they name by group, and the keys whose values they set."""

    words: list[str]
    options: dict[str, str]
    keys: frozenset[str]


def read(words: list[str], sweep: bool = False) -> Overrides:
    """Read the words of the command line, e.g. `["recipe=math_grpo", "data.train_batch_size=64"]`.

    With `sweep` a word may name several values; of the options the last is kept then, and each is checked.

    Raises:
        InputError: a word that is no override, a sweep unasked for, no recipe, or an option that does not exist.
    """
    rewritten = [part for word in words for part in rewrite(word)]
    parsed = _parse(rewritten, sweep)
    named = [(o.key_or_group, value) for o in parsed if _is_group_key(o.key_or_group) for value in _values(o)]
    keys = frozenset(o.key_or_group for o in parsed if not _is_group_key(o.key_or_group))
    _check_options(named, keys)
    return Overrides(rewritten, dict(named), keys)


def rewrite(word: str) -> list[str]:
    """One word of the command line as Hydra should see it.

    A folder in `base_model=` becomes the option `folder` with its path, since a path is no name of a Hydra option.
    Values are forced (`++`): whether a key exists is decided by `preflight.keys`, for yaml and command line alike.
    """
    key, _, value = word.partition("=")
    if key == "base_model" and _is_path(value):
        folder = Path(value).expanduser().absolute()
        return ["base_model=folder", f"++posttrain.base_model.path={quoted(str(folder))}",
                f"++posttrain.base_model.name={quoted(folder.name)}"]  # fmt: skip
    plain = {"address": "posttrain.cluster.address"}.get(key, key.lstrip("+"))
    if not value or key.startswith(("~", "hydra.")) or _is_group_key(plain):
        return [word]
    return [f"++{plain}={value}"]


def as_sweep(word: str) -> str:
    """An option of our groups as a sweep of one.

    Hydra composes the parent of a multirun without the swept words. Without the recipe there is no `mix` to override,
    so when a recipe is swept the other options must be as well.
    """
    group, _, name = word.partition("=")
    return f"{group}=choice({name})" if group in OUR_GROUPS and name.replace("_", "").isalnum() else word


def names(group: str) -> list[str]:
    """The names that exist in one of our groups, sorted."""
    folders = recipe_folders() if group == "recipe" else [paths.conf_dir() / group]
    return sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})


def recipe_folders() -> list[Path]:
    """Where recipes are looked for; the first wins."""
    return [Path.cwd() / "recipes", paths.recipes_dir()]


def _is_path(value: str) -> bool:
    """Whether a value of `base_model=` is a folder's path; several values, or none, are no path."""
    return (
        bool(value)
        and "," not in value
        and ("/" in value or (Path(value).is_dir() and value not in names("base_model")))
    )


def quoted(text: str) -> str:
    """`text` as a value in Hydra's grammar, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _is_group_key(key: str) -> bool:
    group = key.partition("@")[0]
    return group in OUR_GROUPS or group.startswith("hydra/") or (paths.verl_config_dir() / group).is_dir()


def _values(override: Override) -> list[str]:
    """The options that a word names: one, or those of a choice sweep. A glob is Hydra's to expand."""
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return [str(choice) for choice in value.list]
    return [] if override.is_sweep_override() else [str(value)]


def _parse(words: list[str], sweep: bool) -> list[Override]:
    parser, parsed, problems = OverridesParser.create(), [], []
    for word in words:
        if "=" not in word and not word.startswith("~"):
            problems.append(Problem(f"'{word}' is no key=value", "write key=value"))
            continue
        try:
            override = parser.parse_override(word)
        except HydraException as error:
            what = f"'{word.lstrip('+')}' cannot be read: {str(error).splitlines()[0]}"
            problems.append(Problem(what, "write key=value; what holds , [ ] { } or quotes is quoted: 'key=\"a,b\"'"))
            continue
        if override.key_or_group in NOT_HERE:
            problems.append(Problem(f"'{word.lstrip('+')}' is not for this verb", NOT_HERE[override.key_or_group]))
        if override.is_sweep_override() and not sweep:
            several = f"'{word.lstrip('+')}' names several values"
            problems.append(Problem(several, "add --multirun for a run each, or quote a value with a comma"))
        if _is_group_key(override.key_or_group) and isinstance(override.value(), int | float | list):
            needed = f"{override.key_or_group} is a group of config files, and its value is the name of an option"
            problems.append(Problem(f"'{word}' names no option", needed))
        if override.key_or_group in ("posttrain", *(f"posttrain.{group}" for group in OUR_GROUPS)):
            problems.append(Problem(f"'{word.lstrip('+')}' replaces a whole node", "set a key below it, or GROUP=NAME"))
        parsed.append(override)
    if problems:
        raise InputError("the command line cannot be read", problems)
    return parsed


def _check_options(named: list[tuple[str, str]], keys: frozenset[str]) -> None:
    """Every option of our groups must exist, a recipe must be named, and an address is that of a Ray cluster."""
    problems = []
    if "posttrain.cluster.address" in keys and ("cluster", "ray") not in named:
        problems.append(Problem("address= is that of a Ray cluster", "add cluster=ray"))
    if "recipe" not in dict(named):
        problems.append(Problem("no recipe is named", f"add recipe=NAME; there are: {', '.join(names('recipe'))}"))
    for group, name in named:
        if group in OUR_GROUPS and name not in (known := names(group)):
            problems.append(Problem(f"{group}={name} is unknown", one_of(name, known, f"{group}=")))
    if problems:
        raise InputError("nothing to launch", problems)
