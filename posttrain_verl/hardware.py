"""The machine: which file of conf/hardware/ fits it, and what that file sets.

A file of conf/hardware/ holds `choices` (options of our groups), `settings` by stage, and `sizes` by stage for recipes
that did not choose their own for it. Each entry says why; nothing the user set on the command line is touched.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf


@dataclass(frozen=True)
class Change:
    """What the hardware set: `key` from `old` to `new`, and `why` in one phrase."""

    key: str
    old: Any
    new: Any
    why: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new} ({self.why})"


@dataclass(frozen=True)
class Machine:
    """A detected machine: the name of its file in conf/hardware/ and how many devices torch sees."""

    name: str
    devices: int
    reason: str


def detect() -> Machine:
    """Look at this machine. Without an NVIDIA driver it is a CPU; with one, the number that torch sees decides."""
    if not _driver_lists_devices():
        return Machine("cpu", 0, "no NVIDIA driver")
    devices = _devices_torch_sees()
    if devices == 0:
        return Machine("cpu", 0, "there is an NVIDIA driver, but torch sees no device")
    return Machine("1x80gb" if devices == 1 else "8xh100", devices, f"torch sees {devices} devices")


def _driver_lists_devices() -> bool:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    try:
        return pynvml.nvmlDeviceGetCount() > 0
    finally:
        pynvml.nvmlShutdown()


def _devices_torch_sees() -> int:
    """`torch.cuda.device_count()`, asked in a process of its own: importing torch here would cost seconds."""
    code = "import torch; print(torch.cuda.device_count())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return int(answer.stdout.split()[-1])


def choices(facts: DictConfig, chosen: DictConfig, user: set[str]) -> list[Change]:
    """The options of our groups that the hardware replaces: those it cannot carry and the user did not name.

    Of several entries of a group the first that fits counts.
    """
    changes: dict[str, Change] = {}
    for entry in facts.choices:
        old = chosen[entry.group]
        fits = old in entry["of"] if "of" in entry else old not in entry["keep"]
        if fits and entry.group not in user:
            changes.setdefault(entry.group, Change(entry.group, old, entry.value, entry.why))
    return list(changes.values())


def apply(tree: DictConfig, user_keys: frozenset[str], found: Machine | None) -> list[Change]:
    """Set in `tree` what `tree.posttrain.hardware` asks for, and return what changed."""
    facts, parts = tree.posttrain.hardware, _parts(tree)
    entries = [entry for part in parts for entry in facts.settings[part]]
    if tree.posttrain.sized_for != facts.name:
        entries += [entry for part in parts for entry in facts.sizes[part]]
    entries = [entry for entry in entries if "value" in entry or OmegaConf.select(tree, entry.key) is not None]
    changes = [_apply_one(tree, entry.key, _target(tree, entry), entry.why, user_keys) for entry in entries]
    for key, value, why in _counts(facts, found):
        changes.append(_apply_one(tree, key, value, why, user_keys))
    return [change for change in changes if change is not None]


def _parts(tree: DictConfig) -> list[str]:
    """The lists of a hardware file that speak of this run: those of its stage, and the critic's if it trains one."""
    stage = tree.posttrain.stage
    return [stage, "critic"] if stage == "rl" and uses_critic(tree) else [stage]


def uses_critic(config: DictConfig) -> bool:
    """Whether VeRL will train a critic: asked for, or needed by GAE (verl.trainer.ppo.utils.need_critic)."""
    asked = config.critic.enable
    return bool(asked) if asked is not None else config.algorithm.adv_estimator == "gae"


def _counts(facts: DictConfig, found: Machine | None) -> list[tuple[str, int, str]]:
    """Devices a node and nodes: the file's, or what this machine has when it was detected."""
    devices = found.devices if found and found.devices else facts.n_gpus_per_node
    reason = found.reason if found else f"hardware={facts.name}"
    return [("trainer.n_gpus_per_node", devices, reason), ("trainer.nnodes", facts.nnodes, reason)]


def _target(tree: DictConfig, entry: DictConfig) -> Any:
    if "value" in entry:
        return entry.value
    old = OmegaConf.select(tree, entry.key)
    return min(old, entry.at_most) if isinstance(old, int) else entry.at_most


def _apply_one(tree: DictConfig, key: str, value: Any, why: str, user_keys: frozenset[str]) -> Change | None:
    old = OmegaConf.select(tree, key)
    if old == value or any(_overlap(key, user_key) for user_key in user_keys):
        return None
    OmegaConf.update(tree, key, value, force_add=True)
    return Change(key, _plain(old), _plain(value), why)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(other + ".") or other.startswith(one + ".")
