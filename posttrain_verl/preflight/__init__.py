"""Everything that can fail before time is spent: one module a family of checks, all problems at once."""

from __future__ import annotations

from collections.abc import Container

from omegaconf import ListConfig

from posttrain_verl.clusters import auth
from posttrain_verl.compose import Composed
from posttrain_verl.preflight import (
    architecture,
    attention,
    batch,
    compiler,
    data,
    disk,
    effective_batch,
    engine,
    keys,
    lengths,
    machine,
    manifest,
    memory,
    model,
    rewards,
    run_folder,
    schedule,
    services,
    shape,
    tokenizer,
    training,
    values,
)
from posttrain_verl.preflight.report import Check, Report, Verdict, look
from posttrain_verl.problem import InputError, Problem, blocking, one_of

# The first two see to it that the others can read the tree.
CHECKS: dict[str, Check] = {
    "keys": keys.check,
    "shape": shape.check,
    "values": values.check,
    "model": model.check,
    "data": data.check,
    "tokenizer": tokenizer.check,
    "lengths": lengths.check,
    "rewards": rewards.check,
    "manifest": manifest.check,
    "batch": batch.check,
    "engine": engine.check,
    "machine": machine.check,
    "compiler": compiler.check,
    "architecture": architecture.check,
    "attention": attention.check,
    "training": training.check,
    "effective_batch": effective_batch.check,
    "memory": memory.check,
    "schedule": schedule.check,
    "disk": disk.check,
    "shared_memory": services.check_shared_memory,
    "ports": services.check_ports,
    "ray": services.check_ray,
    "wandb": services.check_wandb,
    "run_folder": run_folder.check,
    "cluster": auth.check,
}
GATES = ("keys", "shape")


def run(composed: Composed, skip: Container[str] = ()) -> Report:
    """Run every check but those in `skip` and in `posttrain.skip`, in the order of CHECKS.

    Data of an offline mix and embedded models that are not built yet are no problem: launch builds them. Call again
    after building, and they are checked like any other. On a tree that has not VeRL's form only the gates look.
    """
    wanted, there = _wished(composed), composed.posttrain.cluster.get("checked_there") or ()
    verdicts = [look("skip", lambda _: _unknown(wanted), composed)] if wanted else []
    formed = True
    for name, check in CHECKS.items():
        if name in skip or (name in wanted and name != "shape"):
            verdicts.append(Verdict(name, "skipped", note="posttrain.skip" if name in wanted else "not needed here"))
        elif name in there:
            verdicts.append(Verdict(name, "skipped", note=f"the cluster sees to it: {composed.posttrain.cluster.name}"))
        elif not formed and name not in GATES:
            verdicts.append(Verdict(name, "unseen", note="the config has not VeRL's form"))
        else:
            verdicts.append(look(name, check, composed))
            formed = formed and not (name == "shape" and blocking(verdicts[-1].problems))
    return Report(verdicts)


def check(composed: Composed, skip: Container[str] = ()) -> list[Problem]:
    """The problems and warnings that `run` finds."""
    return run(composed, skip).problems


def require(problems: list[Problem], composed: Composed) -> None:
    """Raise `InputError` with all that was found, if there is a problem among it; warnings alone pass."""
    if blocking(problems):
        raise InputError(f"recipe '{composed.recipe}' cannot launch", problems)


def _wished(composed: Composed) -> list[str]:
    """The checks that the user does not want."""
    value = composed.posttrain.skip
    return [str(name) for name in value] if isinstance(value, ListConfig) else [str(value)] if value else []


def _unknown(names: list[str]) -> list[Problem]:
    problems = []
    for name in names:
        if name not in CHECKS:
            problems.append(Problem(f"posttrain.skip names no check {name}", one_of(name, list(CHECKS))))
        elif name == "shape":
            problems.append(Problem("posttrain.skip=[shape]: the other checks need it", "leave shape out of it"))
    return problems
