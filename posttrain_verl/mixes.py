"""A mix as a command asks for it: chosen by name or file, with some of its keys replaced, and built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import data_prep
from data_prep.finished import changed_sources
from data_prep.manifest import FILE_NAME, describe_reward
from posttrain_verl import paths
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem, located, one_of
from reward_fns.own import OwnReward


@dataclass(frozen=True)
class MixChoice:
    """A mix as the command line asks for it, and the folder of its data."""

    config: dict[str, Any]
    folder: Path


def choose_mix(
    mix: str = "embedded", data_dir: str = "data", keys: Sequence[str] = (), any_source: bool = False
) -> MixChoice:
    """A name of conf/mix or a yaml file, with some of its keys replaced. With `any_source` it may have rows that none of our
    graders is for. Raises InputError, also for an unknown key."""
    file = paths.find_option("mix", mix)
    if file is None:
        what = f"mix={mix} is neither a mix of conf/mix nor a yaml file"
        raise InputError("there is no such mix", [Problem(what, one_of(mix, paths.names("mix"), "mix="))])
    title = f"the mix {file.name} cannot be read"
    try:
        replaced = OmegaConf.from_dotlist([key.removeprefix("posttrain.").removeprefix("mix.") for key in keys])
        plain = OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(file), replaced), resolve=True)
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        what = " ".join(str(error).split())[:300]
        raise InputError(title, [Problem(what, "correct the yaml")]) from None
    if not isinstance(plain, dict):
        raise InputError(title, [Problem("it is not a mapping", "write key: value lines")])
    config = {"name": file.stem, **{str(key): value for key, value in plain.items()}}
    with data_errors_as_input(f"mix {config['name']!r} cannot be read"):
        data_prep.parse(config, any_source)
    return MixChoice(config, Path(data_dir).expanduser() / str(config["name"]))


def find_folder(mix: str, data_dir: str) -> Path | None:
    """The folder of data that `mix` names itself, or by its name where no mix has that name: what `synthesize` wrote."""
    given = Path(mix).expanduser()
    folder = given if given.is_dir() else Path(data_dir).expanduser() / mix
    known = not given.is_dir() and paths.find_option("mix", mix) is not None
    return folder if not known and (folder / FILE_NAME).is_file() else None


def build_mix(choice: MixChoice, force: bool = False, reward: OwnReward | None = None) -> dict[str, Any]:
    """Build the mix, unless a finished build of it is there, with its golds graded by `reward` where one is given; returns the
    manifest."""
    if not force and data_prep.is_complete(choice.folder, choice.config):
        manifest = data_prep.read_manifest(choice.folder)
        if reward is None or manifest.get("reward") == describe_reward(reward):
            log.info(f"{choice.folder} holds a finished build of this mix; --force builds it again")
            return manifest
    elif not force and (changed := changed_sources(choice.folder, choice.config)):
        log.info(f"{', '.join(changed)} since {choice.folder} was built: building again")
    return data_prep.build(choice.config, choice.folder, reward)


@contextmanager
def data_errors_as_input(title: str) -> Iterator[None]:
    """What is wrong with the data is the user's mistake: a DataError becomes an InputError."""
    try:
        yield
    except data_prep.DataError as error:
        raise InputError(title, located(error.problems)) from None
