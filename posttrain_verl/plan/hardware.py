"""The machine: which file of conf/hardware/ fits it, and what that file sets.

A file of conf/hardware/ holds `choices` (options of our groups), `settings` by stage, and `sizes` by stage for recipes
that did not choose their own for it. Each entry says why; nothing the user set on the command line is touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posttrain_verl.plan import drivers, facts
from posttrain_verl.plan.facts import Facts
from posttrain_verl.plan.job import uses_critic
from posttrain_verl.problem import Problem
from reward_fns.code import cores


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
    """A detected machine: the file of conf/hardware/ that holds its settings, why, and what it has."""

    name: str
    reason: str
    facts: Facts = field(default_factory=Facts)

    @property
    def devices(self) -> int:
        """How many devices torch can use."""
        return self.facts.torch

    @property
    def trouble(self) -> Problem | None:
        """What keeps torch from GPUs that are there."""
        return drivers.trouble(self.facts)


def detect() -> Machine:
    """Look at this machine. It is a CPU where there is no GPU of NVIDIA, where the user hides them, and where the
    environment is the CPU's; `trouble` then says what is unused. GPUs that the driver lists and a CUDA build of torch
    cannot use are planned for, and preflight refuses."""
    seen = facts.look()
    if seen.torch:
        return Machine("auto", "; ".join([f"torch sees {seen.torch} devices", *seen.disagreements()]), seen)
    if seen.hidden and seen.driver.most:
        return Machine("cpu", f"CUDA_VISIBLE_DEVICES={seen.visible} hides every GPU", seen)
    if (found := drivers.trouble(seen)) is None:
        return Machine("cpu", "no GPU of NVIDIA", seen)
    return Machine("auto" if seen.devices and seen.build.cuda else "cpu", found.what, seen)


def describe(node: DictConfig, found: Machine) -> None:
    """Write what was found into the node of conf/hardware/auto.yaml, which is empty."""
    seen = found.facts
    if found.name == "cpu":
        node.host_memory_gb = round(seen.host_memory_gb, 1)
        return
    count = seen.torch or len(seen.devices)
    node.update(name=f"{count}x{seen.memory_gb:.0f}gb", n_gpus_per_node=count, nnodes=1,
                memory_gb=round(seen.memory_gb, 1), host_memory_gb=round(seen.host_memory_gb, 1),
                interconnect=seen.interconnect, dtypes=seen.described[0].dtypes)  # fmt: skip


def choices(node: DictConfig, chosen: DictConfig, user: set[str]) -> list[Change]:
    """The options of our groups that the hardware replaces: those it cannot carry and the user did not name.

    Of several entries of a group the first that fits counts.
    """
    changes: dict[str, Change] = {}
    for entry in node.choices:
        old = chosen[entry.group]
        fits = old in entry["of"] if "of" in entry else old not in entry["keep"]
        if fits and entry.group not in user:
            changes.setdefault(entry.group, Change(entry.group, old, entry.value, entry.why))
    return list(changes.values())


def apply(tree: DictConfig, user_keys: frozenset[str], found: Machine | None) -> list[Change]:
    """Set in `tree` what `tree.posttrain.hardware` asks for, and return what changed."""
    node, parts = tree.posttrain.hardware, _parts(tree)
    entries = [entry for part in parts for entry in node.settings[part]]
    if tree.posttrain.sized_for != node.name:
        entries += [entry for part in parts for entry in node.sizes[part]]
    entries = [entry for entry in entries if "value" in entry or OmegaConf.select(tree, entry.key) is not None]
    wanted = [(entry.key, _target(tree, entry), entry.why) for entry in entries] + _counts(node, found)
    if found and found.name != "cpu":
        wanted += _workers(tree)
    return put(tree, wanted, user_keys)


def put(tree: DictConfig, wanted: list[tuple[str, Any, str]], user_keys: frozenset[str]) -> list[Change]:
    """Set each (key, value, why) that the user did not set, and return what changed."""
    changes = [_apply_one(tree, key, value, why, user_keys) for key, value, why in wanted]
    return [change for change in changes if change is not None]


def _parts(tree: DictConfig) -> list[str]:
    """The lists of a hardware file that speak of this run: those of its stage, and the critic's if it trains one."""
    stage = tree.posttrain.stage
    return [stage, "critic"] if stage == "rl" and uses_critic(tree) else [stage]


def _counts(node: DictConfig, found: Machine | None) -> list[tuple[str, int, str]]:
    """Devices a node and nodes."""
    reason = found.reason if found else f"hardware={node.name}"
    return [("trainer.n_gpus_per_node", node.n_gpus_per_node, reason), ("trainer.nnodes", node.nnodes, reason)]


def _workers(tree: DictConfig) -> list[tuple[str, Any, str]]:
    """No more reward workers than the cores that run their programs; each runs one at least."""
    key, count = "reward.num_workers", cores.allotted()
    asked = OmegaConf.select(tree, key)
    return [(key, count, f"this machine has {count} cores")] if isinstance(asked, int) and asked > count else []


def _target(tree: DictConfig, entry: DictConfig) -> Any:
    if "value" in entry:
        return entry.value
    old = OmegaConf.select(tree, entry.key)
    return min(old, entry.at_most) if isinstance(old, int) else entry.at_most


def _apply_one(tree: DictConfig, key: str, value: Any, why: str, user_keys: frozenset[str]) -> Change | None:
    old = OmegaConf.select(tree, key)
    if old == value or any(overlap(key, user_key) for user_key in user_keys):
        return None
    OmegaConf.update(tree, key, value, force_add=True)
    return Change(key, _plain(old), _plain(value), why)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(other + ".") or other.startswith(one + ".")
