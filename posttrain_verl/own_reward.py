"""The reward of a user's own, as commands name it and as a run keeps it.

`reward=my_reward.py:score` and `reward_kwargs.NAME=VALUE` mean the same for every verb. For `check` and `launch` they become
keys of VeRL (`overrides.rewrite_reward`). `reward_fns.own` calls the function.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verl.settings import OUR_REWARDS, RewardSettings
from posttrain_verl.verl.stage import Settings
from reward_fns import own
from reward_fns.own import OwnReward

KEY, ARGUMENTS = "reward", "reward_kwargs."  # of the command line
REMEDY = "reward=FILE.py:NAME, or reward=pkg://MODULE:NAME; posttrain new reward writes such a file"
KEPT_FOLDER = "reward"  # of a run folder: the file as it was at the launch


def read_reward(
    word: str, arguments: Sequence[str] = (), default: OwnReward | None = None, ours_take_arguments: bool = False
) -> OwnReward | None:
    """The reward that `reward=` names, else the `default`, with its own of the `arguments` (`reward_kwargs.NAME=VALUE`).

    Our own rewards are None. Raises InputError: there is no such file, the word names none, or arguments stand beside our rewards
    where these take none.
    """
    given, title = read_arguments(arguments), "there is no such reward"
    try:
        found = own.parse_word(word) if word else default
    except ValueError as error:
        raise InputError(title, [Problem(str(error), REMEDY)]) from None
    if word and found and found.file and not found.file.is_file():
        raise InputError(title, [Problem(f"reward={word}: {found.file} is not a file", REMEDY)])
    if found is None or found.path == OUR_REWARDS:
        if given and not ours_take_arguments:
            raise InputError(
                title, [Problem(f"{ARGUMENTS}{next(iter(given))} has no reward to go to", f"add {REMEDY}")]
            )
        return None
    return replace(found, arguments={**found.arguments, **given})


def read_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """`reward_kwargs.NAME=VALUE` as a mapping, values as yaml reads them. Raises InputError for what is not yaml."""
    try:
        node = OmegaConf.from_dotlist(
            [each.removeprefix(ARGUMENTS) for each in arguments if each.startswith(ARGUMENTS)]
        )
        return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        what = " ".join(str(error).split())[:200]
        raise InputError("the command line cannot be read", [Problem(what, f"{ARGUMENTS}NAME=VALUE")]) from None


def names_reward(override: str) -> bool:
    """Whether an override is `reward=` or `reward_kwargs.NAME=`."""
    key = override.partition("=")[0].lstrip("+")
    return key == KEY or key.startswith(ARGUMENTS)


def as_arguments(reward: OwnReward) -> list[str]:
    """The arguments of a verb that name a reward: `reward=` and `reward_kwargs.NAME=`."""
    given = OmegaConf.to_container(OmegaConf.create(dict(reward.arguments)), resolve=True)
    assert isinstance(given, dict)
    return [f"{KEY}={reward.word}", *(f"{ARGUMENTS}{name!s}={json.dumps(value)}" for name, value in given.items())]


def other_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments that are not those of a reward."""
    return [each for each in arguments if not each.startswith(ARGUMENTS)]


def place_beside(recipe: DictConfig, file: Path) -> None:
    """Name the reward of a recipe by its absolute path where it lies beside the recipe's file, and not in the current folder."""
    key = RewardSettings.key("reward_path")
    try:
        path = OmegaConf.select(recipe, key)
    except OmegaConfBaseException:  # an interpolation, or a value where a node should be
        return
    if not isinstance(path, str) or "://" in path or Path(path).expanduser().is_file():
        return
    if (beside := file.parent / path).is_file():
        OmegaConf.update(recipe, key, str(beside.absolute()))


def of_settings(settings: Settings) -> OwnReward | None:
    """The user's own reward that a launch trains with."""
    return settings.reward.own_reward if settings.reward else None


def takes_any_source(settings: Settings) -> bool:
    """Whether the rows of a launch may be of sources that none of our graders is for: nobody grades them, or the user does."""
    try:
        return settings.reward is None or settings.reward.own_reward is not None
    except OmegaConfBaseException:  # the config does not have VeRL's form, which preflight reports
        return True


def keep_in_run(reward: OwnReward | None, run: Path) -> None:
    """Copy the file of a reward into a run folder, so that what the run was graded by stays known when the file changes."""
    if reward and reward.file and reward.file.is_file():
        folder = run / KEPT_FOLDER
        folder.mkdir(exist_ok=True)
        shutil.copyfile(reward.file, folder / reward.file.name)


def kept_by_run(reward: OwnReward | None, run: Path) -> OwnReward | None:
    """The reward that a run was launched with: the user's file while it is what it was, which may read files beside it, else
    the copy in the run folder."""
    if reward is None or reward.file is None:
        return reward
    copy = run / KEPT_FOLDER / reward.file.name
    if not copy.is_file() or (reward.file.is_file() and reward.file.read_bytes() == copy.read_bytes()):
        return replace(reward, of_run=True)
    return replace(reward, path=str(copy), of_run=True)


def remedy_of_failure(reward: OwnReward | None) -> str:
    """What to do where a reward failed while answers were graded, which are kept."""
    if reward and reward.of_run:
        which = f"{reward.word} grades, as it was when the run was launched"
        return f"{which}; add reward=FILE.py:{reward.name} to grade by the corrected file"
    return "correct the reward; the same command grades the answers that are there"


def hold_reward(settings: Settings, before: DictConfig, run: Path) -> str:
    """Let the next attempt of a run be graded as the first one was: where the user's file has changed since, by the copy in the
    run folder. Returns what to say of that. A reward that the attempt names anew, other than in the config `before`, stays."""
    own, reward = of_settings(settings), settings.reward
    if own is None or reward is None or reward.reward_path != own.path:
        return ""
    kept = kept_by_run(own, run)
    if kept is None or kept == own or OmegaConf.select(before, reward.key("reward_path")) != own.path:
        return ""
    reward.put("reward_path", kept.path)
    return f"{own.path} is not what it was when the run was launched: the run's copy grades, {kept.path}"
