"""Checks that find everything wrong with a launch before time is spent: one module for each family of checks."""

from __future__ import annotations

from collections.abc import Container

from posttrain_verl.preflight import capacity, config_form, data, machine, model, rewards, services, tokenizer, training
from posttrain_verl.preflight.report import Check, Report, Verdict, run_check
from posttrain_verl.terminal.problem import InputError, Problem, blocking, one_of
from posttrain_verl.verl.composed import Composed

# The first two make sure that the others can read the config.
CHECKS: dict[str, Check] = {
    "keys": config_form.check_keys,
    "shape": config_form.check_shape,
    "mix": data.check_mix,
    "values": config_form.check_values,
    "model": model.check_model,
    "data": data.check_data,
    "order": data.check_order,
    "tokenizer": tokenizer.check_tokenizer,
    "lengths": tokenizer.check_lengths,
    "rewards": rewards.check_rewards,
    "manifest": data.check_manifest,
    "batch": training.check_batch,
    "engine": training.check_engine,
    "machine": machine.check_machine,
    "compiler": machine.check_compiler,
    "architecture": model.check_architecture,
    "attention": model.check_attention,
    "training": training.check_training,
    "effective_batch": training.check_effective_batch,
    "memory": capacity.check_memory,
    "schedule": training.check_schedule,
    "disk": capacity.check_disk,
    "shared_memory": services.check_shared_memory,
    "ports": services.check_ports,
    "ray": services.check_ray,
    "wandb": services.check_wandb,
    "run_folder": services.check_run_folder,
    "cluster": services.check_cluster,
}


def run_checks(composed: Composed, skip: Container[str] = ()) -> Report:
    """Run every check except those in `skip` and in `posttrain.skip`, in the order of CHECKS.

    Data of an offline mix and embedded models may be missing, because launch builds them. Call this again after building
    to check them. Where the config does not have VeRL's form, only `keys`, `shape` and `mix` run.
    """
    there = composed.posttrain.cluster.get("checked_there") or ()
    unwanted = [str(name) for name in composed.posttrain.skip or []]
    bad = [Problem(f"posttrain.skip={name}: there is no such check", one_of(name, list(CHECKS)))
           for name in unwanted if name not in CHECKS]  # fmt: skip
    if "shape" in unwanted:
        bad.append(Problem("posttrain.skip=[shape]: the other checks need it", "leave shape out of posttrain.skip"))
    verdicts = [run_check("skip", lambda _: bad, composed)] if unwanted else []
    formed = True
    for name, check in CHECKS.items():
        if name in skip or (name in unwanted and name != "shape"):
            verdicts.append(Verdict(name, "skipped", note="posttrain.skip" if name in unwanted else "not needed here"))
        elif name in there:
            verdicts.append(Verdict(name, "skipped", note=f"checked on the cluster: {composed.posttrain.cluster.name}"))
        elif not formed and name not in ("keys", "shape", "mix"):
            verdicts.append(Verdict(name, "unseen", note="the config does not have VeRL's form"))
        else:
            verdicts.append(run_check(name, check, composed))
            formed = formed and not (name == "shape" and blocking(verdicts[-1].problems))
    return Report(verdicts)


def find_problems(composed: Composed, skip: Container[str] = ()) -> list[Problem]:
    """The problems and warnings that `run_checks` finds."""
    return run_checks(composed, skip).problems


def raise_if_blocked(problems: list[Problem], composed: Composed) -> None:
    """Raise `InputError` with all problems and warnings if one of them is a problem. Warnings alone pass."""
    if blocking(problems):
        raise InputError(f"recipe '{composed.recipe}' cannot launch", problems)
