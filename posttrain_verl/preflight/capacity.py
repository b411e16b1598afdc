"""Whether the launch has room: GPU and host memory in every phase of a step, and disk for its checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain_verl.base_models.shape import known_shape
from posttrain_verl.plan import adapt, summary
from posttrain_verl.plan.adapt import current_candidate
from posttrain_verl.plan.memory import HOST, Table, memory_table
from posttrain_verl.plan.summary import MemoryUnknown
from posttrain_verl.preflight import machine, model, training
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.terminal.problem import Problem, warning
from posttrain_verl.verl.checkpoints import CheckpointPart, measure_part
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.job import GIB, TYPICAL_FILL, Job
from posttrain_verl.verl.settings import format_value
from posttrain_verl.verl.stage import is_count


def check_memory(composed: Composed) -> list[Problem]:
    """A problem if sequences of typical length do not fit, a warning if only a batch of the longest does not.

    Devices on which the sources of `hardware=auto` disagree are named, too: as a problem if fewer are there than configured.
    """
    found, here, settings = [], composed.machine, composed.settings
    if here is not None and here.devices:  # check_machine reports devices that torch cannot use
        key, asked = settings.key("gpus_per_node"), settings.gpus_per_node
        for disagreement in here.facts.disagreements(key, asked if asked != here.devices else None):
            if disagreement.startswith(key) and asked > here.devices:
                found.append(Problem(disagreement, f"set it to {here.devices} or less"))
            else:
                found.append(warning(disagreement, "torch's count is used"))
    try:
        worst, typical = summary.plan_memory(composed), summary.plan_memory(composed, TYPICAL_FILL)
    except MemoryUnknown as reason:
        if found:
            return found
        raise CannotTell(str(reason)) from None
    if worst.fits:
        return found
    remedy = "\n".join(_find_remedies(composed, worst.job))
    if not remedy:
        least = adapt.smallest_memory(worst.job, settings.longest_group)
        remedy = f"LoRA with everything offloaded and one sequence at a time still means: {_describe_misfit(least)}"
        remedy += "\nuse a larger machine, a smaller model or shorter sequences"
    if typical.fits:
        what = f"a batch of sequences of full length would not fit: {_describe_misfit(worst)}"
        return [*found, warning(what, remedy)]
    what = f"does not fit hardware={composed.posttrain.hardware.name}: {_describe_misfit(typical)}"
    return [*found, Problem(what, remedy)]


def _describe_misfit(memory: Table) -> str:
    """What is too much, with its numbers and its largest parts."""
    job, (phase, peak) = memory.job, memory.peak
    if peak > job.memory:
        parts = sorted((line for line in memory.lines if phase in line.phases), key=lambda line: -line.bytes)[:3]
        listed = ", ".join(f"{line.name} {line.gb:.1f}" for line in parts)
        return f"{phase} needs {peak / GIB:.1f} of {job.memory / GIB:.1f} GB a GPU ({listed})"
    if memory.kv_sequences is not None and memory.kv_sequences < 1:
        return f"vLLM's cache of {(memory.kv_room or 0) / GIB:.1f} GB holds no sequence of full length"
    return f"a node needs {memory.total(HOST) / GIB:.0f} of {job.host_memory / GIB:.0f} GB of its own memory"


def _find_remedies(composed: Composed, job: Job) -> Iterator[str]:
    """Single overrides that would make it fit, each with its number. Without one, the whole setting that would."""
    now, keys, longest = current_candidate(job), adapt.keys_of(composed.settings), composed.settings.longest_group
    budget = composed.settings.model.key("token_budget")
    offloads = [name for name in ("optimizer_offload", "param_offload") if not getattr(now, name)]
    singles: list[tuple[str, Any]] = [(name, True) for name in offloads]
    if now.tokens > longest:
        singles.append(("tokens", max(now.tokens // 2, longest)))
    if now.share > 0.3:
        singles.append(("share", round(now.share - 0.2, 2)))
    if now.share and now.share < 0.8:
        singles.append(("share", round(now.share + 0.1, 2)))
    if not now.lora:
        singles.append(("lora", adapt.LORA_RANK))
    fits = False
    for name, value in singles:
        changed = memory_table(adapt.vary_job(job, replace(now, **{name: value})))
        if changed.fits:
            fits, (phase, peak) = True, changed.peak
            key = keys.get(name, budget)
            yield f"{key}={_format_change(value, name)}: {phase} would need {peak / GIB:.1f} of {job.memory / GIB:.1f} GB"
    if not fits and (found := adapt.search_candidate(job, longest)):
        setting, memory = found
        changes = [(name, getattr(setting, name)) for name in keys if getattr(setting, name) != getattr(now, name)]
        overrides = [f"{keys[name]}={_format_change(value, name)}" for name, value in changes]
        if setting.tokens != now.tokens:
            overrides.append(f"{budget}={setting.tokens}")
        yield f"together: {' '.join(overrides)}: {memory.peak[0]} would need {memory.peak[1] / GIB:.1f} GB"


def _format_change(value: object, name: str) -> str:
    if name == "master":  # bytes of a stored weight
        return "bf16" if value == 2 else "fp32"
    return format_value(value)


REST_BYTES = 10**9  # logs, rollouts, Ray's own files
EXPORT_BYTES_A_PARAMETER = 2  # in bf16, the dtype of the models of conf/base_model


def check_disk(composed: Composed) -> list[Problem]:
    """A problem if a disk has less room than a run without a resume needs, a warning if one with a resume may need more.

    Checkpoints may go to another disk than all the rest: to the run folder, unless the user named another place. Those that a
    run has written before its resume make room for new ones.
    """
    machine.require_here(composed)
    settings, run_dir = composed.settings, composed.run_dir()
    named = settings.key("checkpoint_dir") in composed.user_keys
    home = _nearest_existing(run_dir)
    place = _nearest_existing(Path(settings.checkpoint_dir).expanduser() if named else run_dir)
    found, remedy = [], "free some, or set posttrain.runs_dir to a larger disk"
    floor = REST_BYTES if home.stat().st_dev == place.stat().st_dev else 0
    checkpoints = Path(settings.checkpoint_dir).expanduser()
    own = checkpoints.rglob("*") if checkpoints.is_relative_to(run_dir) else ()
    written = sum(file.stat().st_size for file in own if file.is_file())
    free, needed = shutil.disk_usage(place).free, max(count_needed_bytes(composed) - REST_BYTES - written, 0) + floor
    if free < needed:
        what = f"{place} has {format_bytes(free)} free, and the run needs about {format_bytes(needed)}"
        # The overrides that keep as few checkpoints as the stage can resume from.
        saved, parts, fewest = count_saves(composed), list_checkpoint_parts(composed), composed.stage.fewest_checkpoints
        fewer = " ".join(model.override("kept_checkpoints", fewest)
                         for model, part in zip(settings.models, parts, strict=True)
                         if part.kept is None or part.kept > fewest)  # fmt: skip
        problem = Problem(
            f"{what}; {describe_disk(composed)}", f"{remedy}, or keep fewer checkpoints: {fewer}" if fewer else remedy
        )
        # With two or more kept checkpoints VeRL 0.9.1 deletes the oldest before it writes, except after a resume.
        spared = sum(part.bytes for part in parts if part.kept and 1 < part.kept < part.count(saved))
        found.append(replace(problem, level="warning") if free >= needed - spared else problem)
    if not floor and (free := shutil.disk_usage(home).free) < REST_BYTES:
        what = f"{home} has {format_bytes(free)} free, and a run writes about {format_bytes(REST_BYTES)} beside its checkpoints"
        found.append(Problem(what, remedy))
    return found


def count_needed_bytes(composed: Composed) -> int:
    """Bytes that the run needs at most: its checkpoints, and REST_BYTES for everything else.

    Checkpoints count where the model's weights are here or its shape is known.
    """
    saved = count_saves(composed)
    return REST_BYTES + sum(part.bytes * part.count(saved) for part in list_checkpoint_parts(composed))


def describe_disk(composed: Composed) -> str:
    """The line of `check` about disk: the bytes, how many checkpoints they are, and what an export adds."""
    found, saved = list_checkpoint_parts(composed), count_saves(composed)
    if saved == 0:
        return "disk: the run saves no checkpoint"
    if not any(part.bytes for part in found):
        return f"disk: not planned (the size of {composed.model} is not known here)"
    total = sum(part.bytes * part.count(saved) for part in found)
    counts = [_describe_checkpoints(part, saved) for part in found]
    if len(found) > 1:
        counts = [f"{part.name} {count}" for part, count in zip(found, counts, strict=True)]
    exported = _count_parameters(composed.model, composed) * EXPORT_BYTES_A_PARAMETER
    return f"disk: {format_bytes(total)} for checkpoints ({', '.join(counts)}); an export in bf16 adds {format_bytes(exported)}"


def format_bytes(number: float) -> str:
    """Three digits and a unit, e.g. "1.23 GB"."""
    units = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (0, "bytes"))
    unit, name = next(pair for pair in units if number >= pair[0])
    return f"{number / (unit or 1):.3g} {name}"


def _describe_checkpoints(part: CheckpointPart, saved: int | None) -> str:
    if part.kept and (saved is None or saved > part.kept):
        count = f"{part.kept} kept + 1 being written"
    else:
        count = "all kept, how many is not known yet, one" if saved is None else f"{saved} kept"
    named = {"weights": part.weights, "optimizer": part.optimizer, "hf_model": part.folder}
    listed = " + ".join(f"{name} {format_bytes(held)}" for name, held in named.items() if held)
    copies = f", written by each of {part.replicas} replicas (fsdp_size)" if part.replicas > 1 else ""
    return f"{count} of {format_bytes(part.bytes)}: {listed}{copies}"


def list_checkpoint_parts(composed: Composed) -> list[CheckpointPart]:
    """What one checkpoint of the launch holds: the trained model, and with PPO its critic."""
    parts = []
    for trained in composed.settings.models:
        shape = known_shape(str(trained.path), composed.posttrain.base_model) if trained.lora_rank else None
        adapter = shape.lora_parameters(trained.lora_rank) if shape else 0
        parameters = _count_parameters(str(trained.path), composed, head=not trained.outputs_values)
        part = measure_part(trained, composed.settings.world_size, parameters, adapter)
        parts.append(replace(part, keeps_best=composed.stage.decides_checkpoint is not None))
    return parts


def _count_parameters(path: str, composed: Composed, head: bool = True) -> int:
    """Parameters of a model. Without its `head`, one value a token takes the place of the output layer."""
    folder = model.find_model_folder(path)
    counted = model.count_parameters(folder)
    shape = known_shape(path if folder is None else str(folder), composed.posttrain.base_model)
    whole = counted or (shape.parameters if shape else 0)
    if head or shape is None:
        return whole
    return whole - (0 if shape.tied else shape.vocab * shape.hidden) + shape.hidden


def count_saves(composed: Composed) -> int | None:
    """How often the run saves; None where the number of steps is not known. The stage says if a last step is always saved."""
    steps, settings = training.count_steps(composed), composed.settings
    frequency = settings.save_every
    if frequency == "after_each_epoch":
        return settings.total_epochs if is_count(settings.total_epochs) else None
    if not isinstance(frequency, int) or frequency < 1:
        return int(composed.stage.saves_last_step)
    return -(-steps // frequency) if steps else None


def _nearest_existing(path: Path) -> Path:
    """The path, or the nearest of its parents that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
