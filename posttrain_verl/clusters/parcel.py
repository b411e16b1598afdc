"""What goes to a Ray cluster with a job: our code, the recipes, and data and model where they are small."""

from __future__ import annotations

import shutil
from pathlib import Path

from omegaconf import OmegaConf

import data_prep
import posttrain_verl
import reward_fns
from hydra_plugins import posttrain_launcher
from posttrain_verl import base_models, paths
from posttrain_verl.clusters import words
from posttrain_verl.compose import MODEL_KEYS, Composed
from posttrain_verl.problem import InputError, Problem

FILES = "files"  # the folder of data and model in the parcel
_DATA_KEYS = ("data.train_files", "data.val_files")
_FILE_KEYS = (*_DATA_KEYS, "reward.custom_reward_function.path")
_MIB = 2**20


def pack(composed: Composed, folder: Path) -> dict[str, str]:
    """Fill `folder` and return the keys that have another value there, e.g. `{"posttrain.data_dir": "files/data"}`.

    Paths there are relative to the parcel, which is the job's current folder on every node.

    Raises:
        InputError: something is too large to be sent, or is neither here nor on the cluster.
    """
    parcel = _Parcel(composed, folder)
    parcel.add_code()
    parcel.add_data()
    parcel.add_model()
    parcel.add_named_files()
    if parcel.problems:
        raise InputError(f"recipe '{composed.recipe}' cannot be sent", parcel.problems)
    return {key: there if there.startswith("[") else words.value(there) for key, there in parcel.replaced.items()}


def verl_keys(composed: Composed, sent: dict[str, str]) -> list[str]:
    """VeRL's keys for what `pack` sent: a config of an earlier job names the folder where that job's parcel lay."""
    keys = {key: there for key, there in sent.items() if key != "base_model" and not key.startswith("posttrain.")}
    if "base_model" in sent:
        models = [key for key in MODEL_KEYS[composed.stage] if OmegaConf.select(composed.verl, key) == composed.model]
        keys |= dict.fromkeys(models, sent["base_model"])
    if sent["posttrain.data_dir"].startswith(f"{FILES}/"):
        home = composed.data_dir.parent
        for key in set(_DATA_KEYS) - composed.user_keys:
            files = paths.absolute(OmegaConf.select(composed.verl, key)) or []
            inside = [Path(file).relative_to(home) for file in ([files] if isinstance(files, str) else files)]
            keys[key] = f"[{','.join(f'{FILES}/data/{file}' for file in inside)}]"
    return [f"{key}={there}" for key, there in sorted(keys.items())]


class _Parcel:
    def __init__(self, composed: Composed, folder: Path):
        self.composed, self.folder, self.cluster = composed, folder, composed.posttrain.cluster
        self.replaced: dict[str, str] = {}
        self.problems: list[Problem] = []
        self._room = int(self.cluster.send_at_most_mib * _MIB)

    def add_code(self) -> None:
        """The packages as they are imported here, and the recipes of the current folder over the shipped ones."""
        root = paths.conf_dir().parent
        folders = [Path(str(package.__file__)).parent for package in (posttrain_verl, reward_fns, data_prep)]
        if (root / "pyproject.toml").is_file():  # a checkout, where conf and recipes lie beside the package
            folders += [paths.conf_dir(), paths.recipes_dir()]
            shutil.copy2(root / "pyproject.toml", self.folder)
        for source in folders:
            shutil.copytree(source, self.folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        launcher = Path(posttrain_launcher.__file__)  # one file of a package that other distributions have files in
        (self.folder / launcher.parent.name).mkdir()
        shutil.copy2(launcher, self.folder / launcher.parent.name)
        if (own := Path.cwd() / "recipes").is_dir():
            shutil.copytree(own, self.folder / "recipes", dirs_exist_ok=True)

    def add_data(self) -> None:
        """The folder of the mix; one that is not here is the cluster's, or is built there."""
        data, home = self.composed.data_dir, self.composed.data_dir.parent
        given = "posttrain.data_dir" in self.composed.user_keys
        if self._is_shared(home) or (
            given and Path(self.composed.posttrain.data_dir).is_absolute() and not data.exists()
        ):
            self.replaced["posttrain.data_dir"] = str(home)
        elif data.exists():
            self._copy(data, f"data/{data.name}")
            self.replaced["posttrain.data_dir"] = f"{FILES}/data"
        else:
            self.replaced["posttrain.data_dir"] = f"{self.cluster.runs_dir}/data"

    def add_model(self) -> None:
        """A model that is a folder; an embedded one is built there, one of the hub is fetched there."""
        model = self.composed.model
        if base_models.is_embedded(model) or not (Path(model).is_absolute() or Path(model).is_dir()):
            return
        key = next((key for key in MODEL_KEYS[self.composed.stage] if key in self.composed.user_keys), "base_model")
        self.replaced[key] = self._place(model, Path(model).name)

    def add_named_files(self) -> None:
        """Files that the user named by themselves."""
        for number, key in enumerate(key for key in _FILE_KEYS if key in self.composed.user_keys):
            value = OmegaConf.select(self.composed.verl, key)
            files = list(value) if OmegaConf.is_list(value) else [value]
            there = [self._place(str(file), f"{number}-{i}/{Path(str(file)).name}") for i, file in enumerate(files)]
            self.replaced[key] = f"[{','.join(map(words.value, there))}]" if OmegaConf.is_list(value) else there[0]

    def _place(self, value: str, name: str) -> str:
        """Where the file or folder `value` is for the job, sending it along if it lies on this machine alone."""
        path = Path(value).expanduser()
        if "://" in value:
            return value
        if self._is_shared(path) or (path.is_absolute() and not path.exists()):
            return str(path.absolute())
        if path.exists():
            self._copy(path, name)
        else:
            self.problems.append(Problem(f"{value} is not here", "name a file on the cluster by its absolute path"))
        return f"{FILES}/{name}"

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
        target = self.folder / FILES / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, target)
