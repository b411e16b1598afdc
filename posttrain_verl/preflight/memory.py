"""Memory: every phase of a step fits its GPU, vLLM can hold a sequence, and what is offloaded fits the host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from posttrain_verl.compose import Composed
from posttrain_verl.plan import adapt, choice, summary
from posttrain_verl.plan.choice import Setting, current
from posttrain_verl.plan.job import GIB, TYPICAL_FILL, Job
from posttrain_verl.plan.memory import HOST, Table, table
from posttrain_verl.plan.summary import Unknown
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.problem import Problem, warning


def check(composed: Composed) -> list[Problem]:
    """A problem if sequences as they come do not fit, a warning if only a batch of the longest does not.

    Devices that the sources of `hardware=auto` do not agree on are named, too.
    """
    found = list(_devices(composed))
    try:
        worst, typical = summary.memory(composed), summary.memory(composed, TYPICAL_FILL)
    except Unknown as reason:
        if found:
            return found
        raise CannotTell(str(reason)) from None
    if worst.fits:
        return found
    remedy = "\n".join(_remedies(composed, worst.job)) or _too_large(composed, worst.job)
    if typical.fits:
        return [*found, warning(f"a batch of sequences of full length would not fit: {_misfit(worst)}", remedy)]
    return [*found, Problem(f"does not fit hardware={composed.posttrain.hardware.name}: {_misfit(typical)}", remedy)]


def _devices(composed: Composed) -> Iterator[Problem]:
    """More devices asked for than torch sees is a problem; any other disagreement is a warning."""
    machine, asked = composed.machine, composed.verl.trainer.n_gpus_per_node
    if machine is None or not machine.devices:  # preflight.machine speaks of devices that torch cannot use
        return
    for said in machine.facts.disagreements(asked if asked != machine.devices else None):
        too_many = said.startswith("trainer.") and asked > machine.devices
        yield (
            Problem(said, f"set it to {machine.devices} or less")
            if too_many
            else warning(said, "torch's count is used")
        )


def _misfit(memory: Table) -> str:
    """What is too much, with its numbers and its largest parts."""
    job, (phase, peak) = memory.job, memory.peak
    if peak > job.memory:
        parts = sorted((line for line in memory.lines if phase in line.phases), key=lambda line: -line.bytes)[:3]
        listed = ", ".join(f"{line.name} {line.gb:.1f}" for line in parts)
        return f"{phase} needs {peak / GIB:.1f} of {job.memory / GIB:.1f} GB a GPU ({listed})"
    if memory.kv_sequences is not None and memory.kv_sequences < 1:
        return f"vLLM's cache of {(memory.kv_room or 0) / GIB:.1f} GB holds no sequence of full length"
    return f"a node needs {memory.total(HOST) / GIB:.0f} of {job.host_memory / GIB:.0f} GB of its own memory"


def _remedies(composed: Composed, job: Job) -> Iterator[str]:
    """Single keys that would make it fit, each with its number; else the whole setting that would."""
    now, keys = current(job), adapt.KEYS[composed.stage]
    longest = adapt.longest(composed.stage, composed.verl)
    singles = list(_single(now, longest))
    fitting = [(name, value) for name, value in singles if table(choice.vary(job, replace(now, **{name: value}))).fits]
    for name, value in fitting:
        phase, peak = table(choice.vary(job, replace(now, **{name: value}))).peak
        key = keys.get(name) or adapt.TOKEN_KEYS[composed.stage][0]
        yield f"{key}={_word(value)}: {phase} would need {peak / GIB:.1f} of {job.memory / GIB:.1f} GB"
    if not fitting and (found := choice.search(job, longest)):
        setting, memory = found
        changed = [(name, getattr(setting, name)) for name in keys if getattr(setting, name) != getattr(now, name)]
        words = [f"{keys[name]}={_word(value, name)}" for name, value in changed]
        if setting.tokens != now.tokens:
            words.append(f"{adapt.TOKEN_KEYS[composed.stage][0]}={setting.tokens}")
        yield f"together: {' '.join(words)}: {memory.peak[0]} would need {memory.peak[1] / GIB:.1f} GB"


def _too_large(composed: Composed, job: Job) -> str:
    least = choice.smallest(job, adapt.longest(composed.stage, composed.verl))
    at_least = f"LoRA with everything offloaded and one sequence at a time still means: {_misfit(least)}"
    return f"{at_least}\nuse a larger machine, a smaller model or shorter sequences"


def _single(now: Setting, longest: int) -> Iterator[tuple[str, Any]]:
    for name in ("optimizer_offload", "param_offload"):
        if not getattr(now, name):
            yield name, True
    if now.tokens > longest:
        yield "tokens", max(now.tokens // 2, longest)
    if now.share > 0.3:
        yield "share", round(now.share - 0.2, 2)
    if now.share and now.share < 0.8:
        yield "share", round(now.share + 0.1, 2)
    if not now.lora:
        yield "lora", choice.LORA_RANK


def _word(value: object, name: str = "") -> str:
    if name == "master":
        return "bf16" if value == 2 else "fp32"
    return str(value).lower() if isinstance(value, bool) else str(value)
