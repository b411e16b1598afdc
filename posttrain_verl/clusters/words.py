"""The launch that runs on the cluster: the user's own words, but for what is said of the place."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from omegaconf import OmegaConf

from posttrain_verl import overrides
from posttrain_verl.compose import Composed
from posttrain_verl.problem import InputError, Problem
from posttrain_verl.watch.watch import words_unattended

_OF_THE_PLACE = ("cluster", "address", "posttrain.cluster", "posttrain.runs_dir", "posttrain.run_id",
                 "posttrain.detach")  # fmt: skip


def there(composed: Composed, run_id: str, replaced: dict[str, str]) -> list[str]:
    """The words of the launch on the cluster, one process's own `cluster=local`.

    `replaced` maps keys to the values they have there, in Hydra's grammar (see `value`); the user's own are left out.
    """
    own = [word for word in composed.overrides if not _speaks_of(word, (*_OF_THE_PLACE, *replaced))]
    own += words_unattended(composed.posttrain.watch)
    return [*own, *(f"{key}={value}" for key, value in ({"posttrain.run_id": run_id} | replaced).items())]


def value(text: str) -> str:
    """A path or name as a value of Hydra's grammar, which takes no bare tilde or space."""
    return text if re.fullmatch(r"[\w./:-]+", text) else overrides.quoted(text)


def command(python: str, words: Iterable[str]) -> str:
    """The shell command of that launch; `python` may begin with a tilde."""
    return f"{python} -m posttrain_verl.launch {shlex.join(words)}"


def devices(composed: Composed) -> tuple[int, int]:
    """Nodes, and devices of each."""
    trainer = composed.verl.trainer
    return int(trainer.nnodes), int(trainer.n_gpus_per_node)


def require_named_hardware(composed: Composed) -> None:
    """The machine that writes a script is not the one that runs it.

    Raises:
        InputError: the hardware is to be detected.
    """
    if not any(_speaks_of(word, ("hardware",)) and not word.endswith("=auto") for word in composed.overrides):
        name = composed.posttrain.cluster.name
        problem = Problem(f"hardware=auto looks at this machine, and cluster={name} runs elsewhere",
                          "name a file of conf/hardware, e.g. hardware=8xh100")  # fmt: skip
        raise InputError(f"recipe '{composed.recipe}' cannot launch", [problem])


def setting(composed: Composed, key: str) -> dict[str, str]:
    """A mapping of conf/cluster as strings, e.g. `env`."""
    node = OmegaConf.to_container(composed.posttrain.cluster[key])
    assert isinstance(node, dict)
    return {str(name): str(value) for name, value in node.items()}


def _speaks_of(word: str, keys: tuple[str, ...]) -> bool:
    key = word.partition("=")[0].lstrip("+~")
    return any(key == one or key.startswith(one + ".") for one in keys)
