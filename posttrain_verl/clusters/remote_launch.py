"""The launch that runs on the cluster: its overrides, its command, and what a job gets with it.

A job of a Ray cluster gets a working directory with our code, the recipes, and data and model where they are small. From the
shell it gets the settings of its libraries, and the variables that the user names.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

import data_prep
import posttrain_verl
import reward_fns
from hydra_plugins import posttrain_plugins
from posttrain_verl import base_models, compose, overrides, own_reward, paths
from posttrain_verl.run.environment import LIBRARY_PREFIXES, MACHINE_VARIABLES
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.settings import RewardSettings, format_value
from posttrain_verl.verl.stage import Settings
from posttrain_verl.watch.watcher import unattended_overrides

_PLACE_KEYS = ("cluster", "address", "posttrain.cluster", "posttrain.runs_dir", "posttrain.run_id", "posttrain.detach")


def remote_overrides(composed: Composed, run_id: str, replaced: dict[str, str]) -> list[str]:
    """The overrides of the launch on the cluster, which is an ordinary launch with `cluster=local`.

    `replaced` maps keys to the values they have there, in Hydra's grammar (see `hydra_value`). They take the place of the
    user's own.
    """
    own = [override for override in composed.overrides if not overrides.sets_key(override, (*_PLACE_KEYS, *replaced))]
    own += unattended_overrides(composed.posttrain.watch)
    return [*own, *(f"{key}={value}" for key, value in ({"posttrain.run_id": run_id} | replaced).items())]


def hydra_value(text: str) -> str:
    """A path or name as a value of Hydra's grammar, which takes no bare tilde or space."""
    return text if re.fullmatch(r"[\w./:-]+", text) else overrides.quote_value(text)


def launch_command(python: str, arguments: Iterable[str]) -> str:
    """The shell command of that launch. `python` may begin with a tilde."""
    return f"{python} -m posttrain_verl.launch {shlex.join(arguments)}"


def node_devices(composed: Composed) -> tuple[int, int]:
    """The number of nodes, and of devices on each."""
    return int(composed.settings.nodes_count), int(composed.settings.gpus_per_node)


def require_named_hardware(composed: Composed) -> None:
    """Raises InputError where the hardware would be detected: the machine that writes a script does not run it."""
    if not any(overrides.sets_key(each, ("hardware",)) and not each.endswith("=auto") for each in composed.overrides):
        name = composed.posttrain.cluster.name
        problem = Problem(f"hardware=auto looks at this machine, and cluster={name} runs elsewhere",
                          "name a file of conf/hardware, e.g. hardware=8xh100")  # fmt: skip
        raise InputError(f"recipe '{composed.recipe}' cannot launch", [problem])


def string_mapping(composed: Composed, key: str) -> dict[str, str]:
    """A mapping of conf/cluster as strings, e.g. `env`."""
    node = OmegaConf.to_container(composed.posttrain.cluster[key])
    assert isinstance(node, dict)
    return {str(name): str(value) for name, value in node.items()}


FILES_FOLDER = "files"  # the folder of data and model in the working directory
_MIB = 2**20


def pack_working_dir(composed: Composed, folder: Path) -> dict[str, str]:
    """Fill `folder` and return the keys that have another value there, e.g. `{"posttrain.data_dir": "files/data"}`.

    Paths there are relative to the working directory, which is the job's current folder on every node.

    Raises:
        InputError: something is too large to be sent, or is neither here nor on the cluster.
    """
    _copy_code(folder)
    packed, quote = _SentFiles(composed, folder), hydra_value
    for name, text in own_options(composed).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    replaced = {"posttrain.data_dir": quote(packed.data_dir()), **named_options(composed)}
    model = composed.model
    # An embedded model is built on the cluster, and one of the hub is fetched there.
    if not base_models.is_embedded(model) and (Path(model).is_absolute() or Path(model).is_dir()):
        key = next((key for key in composed.stage.model_keys() if key in composed.user_keys), "base_model")
        replaced[key] = quote(packed.send(model, Path(model).name))
    # Files that the user named one by one, and a reward that the recipe names.
    named = {*composed.user_keys, *([RewardSettings.key("reward_path")] if reward_file(composed) else [])}
    for number, key in enumerate(key for key in composed.stage.file_keys() if key in named):
        value = OmegaConf.select(composed.verl, key)
        files = list(value) if OmegaConf.is_list(value) else [value]
        there = [quote(packed.send(str(file), f"{number}-{i}/{Path(str(file)).name}")) for i, file in enumerate(files)]
        replaced[key] = f"[{','.join(there)}]" if OmegaConf.is_list(value) else there[0]
    if (
        Settings.key("train_files") in replaced
    ):  # at its new place the job would not know a file of the mix, nor its order
        replaced[Settings.key("shuffles")] = format_value(composed.settings.shuffles)
    if packed.problems:
        raise InputError(f"recipe '{composed.recipe}' cannot be sent", packed.problems)
    return replaced


def own_options(composed: Composed) -> dict[str, str]:
    """The recipe and the options of the launch that do not come with the package: their files, below the current folder there.

    An option is complete there, whatever it stands on.
    """
    found = {}
    for group, file in composed.files.items():
        if paths.is_shipped(group, file) or group == "cluster":
            continue
        if group == "recipe":
            found[f"recipes/{file.stem}.yaml"] = file.read_text(encoding="utf-8")
        else:
            text = OmegaConf.to_yaml(compose.read_option(group, file))
            found[f"conf/{group}/{file.stem}.yaml"] = f"# @package posttrain.{group}\n{text}"
    return found


def named_options(composed: Composed) -> dict[str, str]:
    """Options that are named by the path of a file here, by the names that they have there."""
    return {group: file.stem for group, file in composed.files.items()
            if group != "cluster" and composed.typed_option(group) == str(file)}  # fmt: skip


def reward_file(composed: Composed) -> Path | None:
    """The file of the user's own reward that is on this machine."""
    reward = own_reward.of_settings(composed.settings)
    return reward.file if reward and reward.file and reward.file.is_file() else None


def _copy_code(folder: Path) -> None:
    """Copy the packages as they are imported here, and the recipes of the current folder over the shipped ones."""
    root = paths.conf_dir().parent
    folders = [Path(str(package.__file__)).parent for package in (posttrain_verl, reward_fns, data_prep)]
    if (root / "pyproject.toml").is_file():  # a checkout, where conf and recipes lie beside the package
        folders += [paths.conf_dir(), paths.recipes_dir()]
        shutil.copy2(root / "pyproject.toml", folder)
    for source in folders:
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    launcher = Path(posttrain_plugins.__file__)  # one file of a package that other distributions have files in
    (folder / launcher.parent.name).mkdir()
    shutil.copy2(launcher, folder / launcher.parent.name)
    if (own := Path.cwd() / "recipes").is_dir():
        shutil.copytree(own, folder / "recipes", dirs_exist_ok=True)


def sent_overrides(composed: Composed, sent: dict[str, str]) -> list[str]:
    """VeRL's keys for what was sent. The config of an earlier job names files in the working directory of that job."""
    keys = {key: there for key, there in sent.items() if key != "base_model" and not key.startswith("posttrain.")}
    if "base_model" in sent:
        models = [key for key in composed.stage.model_keys() if OmegaConf.select(composed.verl, key) == composed.model]
        keys |= dict.fromkeys(models, sent["base_model"])
    if sent["posttrain.data_dir"].startswith(f"{FILES_FOLDER}/"):
        home = composed.data_dir.parent
        for key in set(Settings.keys("train_files", "val_files")) - composed.user_keys:
            files = paths.absolute_paths(OmegaConf.select(composed.verl, key)) or []
            inside = [Path(file).relative_to(home) for file in ([files] if isinstance(files, str) else files)]
            keys[key] = f"[{','.join(f'{FILES_FOLDER}/data/{file}' for file in inside)}]"
    return [f"{key}={there}" for key, there in sorted(keys.items())]


class _SentFiles:
    """Data and models for a job: sent along with it, or named where the cluster has them."""

    def __init__(self, composed: Composed, folder: Path):
        self.composed, self.folder, self.cluster = composed, folder, composed.posttrain.cluster
        self.problems: list[Problem] = []
        self._room = int(self.cluster.send_at_most_mib * _MIB)

    def data_dir(self) -> str:
        """The folder of the mix. One that is not here is on the cluster, or is built there."""
        data, home = self.composed.data_dir, self.composed.data_dir.parent
        is_given = "posttrain.data_dir" in self.composed.user_keys
        is_absolute = Path(self.composed.posttrain.data_dir).is_absolute()
        if self._is_shared(home) or (is_given and is_absolute and not data.exists()):
            return str(home)
        if not data.exists():
            return f"{self.cluster.runs_dir}/data"
        self._copy(data, f"data/{data.name}")
        return f"{FILES_FOLDER}/data"

    def send(self, value: str, name: str) -> str:
        """The path of the file or folder `value` for the job. One that lies on this machine alone is sent along."""
        path = Path(value).expanduser()
        if "://" in value:
            return value
        if self._is_shared(path) or (path.is_absolute() and not path.exists()):
            return str(path.absolute())
        if path.exists():
            self._copy(path, name)
        else:
            self.problems.append(Problem(f"{value} is not here", "name a file on the cluster by its absolute path"))
        return f"{FILES_FOLDER}/{name}"

    def _is_shared(self, path: Path) -> bool:
        return any(path.absolute().is_relative_to(folder) for folder in self.cluster.shared)

    def _copy(self, path: Path, name: str) -> None:
        size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
        self._room -= size
        if self._room < 0:
            what = f"{path} has {size / _MIB:.0f} MiB; at most {self.cluster.send_at_most_mib} MiB are sent with a job"
            remedy = ("put it on storage that the cluster sees, and name it by its path there, or name the folder that\n"
                      f"both see: posttrain.cluster.shared=[{path.parent}]")  # fmt: skip
            self.problems.append(Problem(what, remedy))
            return
        target = self.folder / FILES_FOLDER / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, target)


@dataclass
class ShellVariables:
    """The variables that a job gets, and with the reason those with the same prefixes that it does not get."""

    sent: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Lines for the user: names without values."""
        lines = [f"the job gets {', '.join(sorted(self.sent))} of this shell"] if self.sent else []
        if self.kept:
            named = ", ".join(f"{name} ({why})" for name, why in sorted(self.kept.items()))
            lines.append(f"it does not get {named}; posttrain.cluster.forward=[NAME] sends one anyway")
        return lines


def shell_variables(composed: Composed, environ: Mapping[str, str] | None = None) -> ShellVariables:
    """Settings by their prefix, unless they are secret or are about this machine alone, and all that `forward` names."""
    environ = os.environ if environ is None else environ  # looked up now: `datasets` puts another object in its place
    cluster, shell = composed.posttrain.cluster, ShellVariables()
    for name, value in environ.items():
        if name in cluster.forward:
            shell.sent[name] = value
        elif name.startswith(LIBRARY_PREFIXES):
            reason = _reason_to_keep(name, value, list(cluster.shared))
            (shell.kept if reason else shell.sent)[name] = reason or value
    return shell


def _reason_to_keep(name: str, value: str, shared: list[str]) -> str:
    """Why a setting stays here; empty where the job gets it. Whoever has the cluster's token can read what a job gets.

    A laptop that may not ask the hub says nothing about the cluster, which fetches the model.
    """
    if re.search(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|(?:^|_)KEY(?:_|$)", name):
        return "a secret"
    if name in {*MACHINE_VARIABLES, "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "VLLM_PORT"}:
        return "of this machine"
    if value.startswith(("/", "~")) and not any(Path(value).is_relative_to(folder) for folder in shared):
        return "a path of this machine"
    return ""
