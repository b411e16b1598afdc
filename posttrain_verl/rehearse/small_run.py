"""The launch that rehearses a recipe on the CPU backend, small, and what its run folders showed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from posttrain_verl import paths
from posttrain_verl.compose import compose
from posttrain_verl.overrides import sets_key
from posttrain_verl.preflight import data
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.output import metrics_by_step
from posttrain_verl.verl import metrics as names
from posttrain_verl.verl.checkpoints import step_folder
from posttrain_verl.verl.composed import Composed

STEPS = 2  # before the checkpoint; a third after the resume

# Keys that the rehearsal sets itself, whatever the user's overrides say.
REPLACED = ("hardware", "base_model", "mix", "cluster", "posttrain.base_model", "posttrain.hardware", "posttrain.cluster",
            "posttrain.detach", "posttrain.run_id", "posttrain.runs_dir", "posttrain.sized_for")  # fmt: skip


def compose_rehearsal(planned: Composed, home: Path, model: Path, run_id: str, *more: str) -> Composed:
    """The rehearsal of `planned` with the tiny `model`, as run `run_id` in `home`; `more` are further overrides."""
    kept = [override for override in planned.overrides if not sets_key(override, REPLACED)]
    place = [f"posttrain.runs_dir='{home}'", f"posttrain.run_id={run_id}"]
    own = [*place, *planned.settings.rehearsal_overrides(STEPS, "posttrain_verl.rehearse.reward"), *more]
    given = [f"base_model={model}", "hardware=cpu", f"mix={rehearsal_mix(planned)}"]
    return compose([*kept, *given, *own], fixed=frozenset(override.partition("=")[0] for override in own))


def rehearsal_mix(planned: Composed) -> str:
    """The recipe's own mix where its files are there, else an embedded one of its kind.

    A recipe is about code if the default prompt of its mix, or the prompt of one of its evaluations, asks for code.
    """
    if has_own_data(planned):
        return planned.typed_option("mix")
    answers = [OmegaConf.select(planned.posttrain, "mix.prompts.default.answer")]
    for name in data.list_evaluations(planned):
        file = paths.find_option("eval", name)
        if file:
            answers.append(OmegaConf.select(OmegaConf.load(file), "prompt.answer"))
    return "embedded_code" if "code" in answers else "embedded"


def has_own_data(planned: Composed) -> bool:
    """Whether the Parquet files that the recipe trains and validates on are on this machine."""
    files = data.list_data_files(planned)
    return bool(files) and all(file.is_file() for file in files)


Metrics = dict[int, dict[str, Any]]
CORRELATION = 0.99  # of the log-probabilities of rollout and trainer; the end-to-end tests measure 0.999


@dataclass(frozen=True)
class Finding:
    """Something that a rehearsal shows: its name, whether it was as it must be, and what was seen."""

    name: str
    good: bool
    seen: str

    def __str__(self) -> str:
        return f"  {'ok    ' if self.good else 'FAILED'} {self.name}: {self.seen}"


def first_findings(planned: Composed, folder: RunFolder, done: bool) -> list[Finding]:
    """What the first run showed; only that it failed, and why, if it did."""
    if not done:
        return [Finding("two steps", False, folder.read_status().why)]
    metrics = metrics_by_step(folder.metrics)
    norm = names.GRADIENT_NORMS[planned.settings.model.name]
    steps = sorted(step for step in metrics if norm in metrics[step])
    findings = [Finding("two steps", steps == [1, 2], f"steps {steps} in metrics.jsonl")]
    for model in planned.settings.models:
        norms = [values.get(names.GRADIENT_NORMS[model.name], math.nan) for values in metrics.values()]
        good = all(math.isfinite(norm) for norm in norms) and max(norms) > 0
        seen = ", ".join(f"{norm:.3g}" for norm in norms)
        findings.append(Finding(f"{model.name}: finite gradients that are not all 0", good, seen))
    if planned.settings.rollout:
        found = [values.get(names.ROLLOUT_CORRELATION, math.nan) for values in metrics.values()]
        seen = "correlation of its probabilities with the trainer's " + ", ".join(f"{value:.4f}" for value in found)
        good = all(value > CORRELATION for value in found)
        findings.append(Finding("vLLM samples from the weights that are trained", good, seen))
        parts = {key: value for key, value in metrics[1].items() if key.startswith(names.REWARD_PARTS)}
        shown = ", ".join(f"{key.split('/')[1]} {value:.2f}" for key, value in parts.items())
        good = not any(values.get(names.VERIFIER_ERRORS) for values in metrics.values())
        findings.append(Finding("the recipe's reward grades, without verifier errors", good, shown or "no parts"))
    keys = [key for values in metrics.values() for key in values if key.startswith(names.VALIDATIONS)]
    findings.append(Finding("validation", bool(keys), keys[0] if keys else "no val- metric"))
    saved = step_folder(folder.checkpoints, STEPS)
    files = [file for file in saved.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 1e6
    return [*findings, Finding("checkpoint", bool(files), f"{len(files)} files, {size:.1f} MB")]


def resumed_finding(folder: RunFolder, done: bool) -> Finding:
    """Whether the second run trained the third step and no other."""
    name = "resume from the checkpoint"
    if not done:
        return Finding(name, False, folder.read_status().why)
    steps = sorted(metrics_by_step(folder.metrics))
    return Finding(name, steps == [STEPS + 1], f"steps {steps} in metrics.jsonl of the new process")


def not_rehearsed(planned: Composed, facts: dict[str, Any], own_data: bool) -> list[str]:
    """What only the planned hardware, model and data can show, of this recipe."""
    settings = planned.settings
    missing = ["the real weights, their numbers in bf16, and what they learn",
               "the real lengths and batch sizes, so neither memory nor speed"]  # fmt: skip
    if not own_data:
        missing.append(f"the recipe's data (build it: {data.mix_command(planned, 'prep')})")
    if facts["tokenizer"] == "byte-level":
        missing.append(f"the tokenizer and template of {planned.model} (not in the hub's cache)")
    graphs = ", CUDA graphs, vLLM's sleep mode" if settings.rollout else ""
    missing.append(f"CUDA kernels: attention, torch.compile{graphs}")
    if settings.world_size > 1:
        missing.append(f"{settings.world_size} GPUs: FSDP shards, NCCL")
    if settings.nodes_count > 1:
        missing.append(f"the network between {settings.nodes_count} nodes")
    return missing + settings.not_rehearsed()


def report_lines(findings: list[Finding], seconds: dict[str, float], missing: list[str]) -> list[str]:
    times = ", ".join(f"{name} {taken:.3g} s" for name, taken in seconds.items())
    return ["rehearsed:", *map(str, findings), f"time: {times}", "not rehearsed:", *(f"  {what}" for what in missing)]


def stage_seconds(metrics: Metrics, step: int = STEPS) -> dict[str, float]:
    """Seconds of each part of a step, where VeRL logs them."""
    values = metrics.get(step, {})
    return {f"step {step} {name}": round(values[names.part_seconds(part)], 1) for part, name in names.STEP_PARTS.items()
            if names.part_seconds(part) in values}  # fmt: skip
