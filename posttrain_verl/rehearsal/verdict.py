"""What a rehearsal showed, read from its run folders, and what it could not show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from posttrain_verl.compose import Composed
from posttrain_verl.plan.job import uses_critic
from posttrain_verl.rehearsal import derive
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.metrics import by_step
from posttrain_verl.verl import parallelism

Metrics = dict[int, dict[str, Any]]
CORRELATION = 0.99  # of the log-probabilities of rollout and trainer; the end-to-end tests measure 0.999
STAGES = {"gen": "rollouts", "reward": "reward", "old_log_prob": "old log-probabilities", "ref": "reference",
          "update_critic": "critic", "update_actor": "update", "update_weights": "weights to vLLM"}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something that a rehearsal shows: its name, whether it was as it must be, and what was seen."""

    name: str
    good: bool
    seen: str

    def __str__(self) -> str:
        return f"  {'ok    ' if self.good else 'FAILED'} {self.name}: {self.seen}"


def of_first(planned: Composed, folder: RunFolder, done: bool) -> list[Finding]:
    """What the first run showed; only that it failed, and why, if it did."""
    if not done:
        return [Finding("two steps", False, folder.read_status().why)]
    metrics = by_step(folder.metrics)
    steps = sorted(step for step in metrics if "train/loss" in metrics[step] or "actor/grad_norm" in metrics[step])
    findings = [Finding("two steps", steps == [1, 2], f"steps {steps} in metrics.jsonl"), *_gradients(planned, metrics)]
    if planned.stage == "rl":
        findings += [_rollouts(metrics), _reward(metrics)]
    return [*findings, _validation(metrics), _checkpoint(folder)]


def of_resumed(folder: RunFolder, done: bool) -> Finding:
    """Whether the second run trained the third step and no other."""
    name = "resume from the checkpoint"
    if not done:
        return Finding(name, False, folder.read_status().why)
    steps = sorted(by_step(folder.metrics))
    return Finding(name, steps == [derive.STEPS + 1], f"steps {steps} in metrics.jsonl of the new process")


def _gradients(planned: Composed, metrics: Metrics) -> Iterator[Finding]:
    names = ["train"] if planned.stage == "sft" else ["actor"]
    if planned.stage == "rl" and uses_critic(planned.verl):
        names.append("critic")
    for name in names:
        norms = [values.get(f"{name}/grad_norm", math.nan) for values in metrics.values()]
        good = all(math.isfinite(norm) for norm in norms) and max(norms) > 0
        yield Finding(f"{name}: finite gradients that are not all 0", good, ", ".join(f"{norm:.3g}" for norm in norms))


def _rollouts(metrics: Metrics) -> Finding:
    key = "training/rollout_actor_probs_pearson_corr"
    seen = [values.get(key, math.nan) for values in metrics.values()]
    good = all(value > CORRELATION for value in seen)
    what = "correlation of its probabilities with the trainer's " + ", ".join(f"{value:.4f}" for value in seen)
    return Finding("vLLM samples from the weights that are trained", good, what)


def _reward(metrics: Metrics) -> Finding:
    parts = {key: value for key, value in metrics[1].items() if key.startswith("reward/")}
    errors = [values.get("reward/verifier_error/mean", 0.0) for values in metrics.values()]
    shown = ", ".join(f"{key.split('/')[1]} {value:.2f}" for key, value in parts.items())
    return Finding("the recipe's reward grades, without verifier errors", max(errors) == 0, shown or "no parts")


def _validation(metrics: Metrics) -> Finding:
    keys = [key for values in metrics.values() for key in values if key.startswith(("val-", "val/"))]
    return Finding("validation", bool(keys), keys[0] if keys else "no val- metric")


def _checkpoint(folder: RunFolder) -> Finding:
    saved = folder.checkpoints / f"global_step_{derive.STEPS}"
    files = [file for file in saved.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 1e6
    return Finding("checkpoint", bool(files), f"{len(files)} files, {size:.1f} MB")


def not_rehearsed(planned: Composed, facts: dict[str, Any], own_data: bool) -> list[str]:
    """What only the planned hardware, model and data can show, of this recipe."""
    config = planned.verl
    gpus = config.trainer.n_gpus_per_node * config.trainer.nnodes
    missing = ["the real weights, their numbers in bf16, and what they learn",
               "the real lengths and batch sizes, so neither memory nor speed"]  # fmt: skip
    if not own_data:
        missing.append("the recipe's data (build it: python -m posttrain_verl.prep mix=" + planned.choices["mix"] + ")")
    if facts["tokenizer"] == "byte-level":
        missing.append(f"the tokenizer and template of {planned.model} (not in the hub's cache)")
    missing.append(
        "CUDA kernels: attention, torch.compile" + (", CUDA graphs, vLLM's sleep mode" if planned.stage == "rl" else "")
    )
    if gpus > 1:
        missing.append(f"{gpus} GPUs: FSDP shards, NCCL")
    if config.trainer.nnodes > 1:
        missing.append(f"the network between {config.trainer.nnodes} nodes")
    return missing + [what for key, off, what in _OFF_ON_A_CPU if OmegaConf.select(config, key) not in (None, off)]


_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
_OFF_ON_A_CPU = (
    (f"{_ROLLOUT}.tensor_model_parallel_size", 1, "tensor parallelism of vLLM"),
    (parallelism.ACTOR_KEY, 1, "sequence parallelism (Ulysses)"),
    (parallelism.DEPRECATED_ACTOR_KEY, 1, "sequence parallelism (Ulysses)"),
    (f"{_ACTOR}.use_dynamic_bsz", False, "dynamic batches of packed rows"),
    (f"{_ACTOR}.fsdp_config.param_offload", False, "offload of the actor"),
    (f"{_ACTOR}.fsdp_config.optimizer_offload", False, "offload of the optimizer"),
    ("actor_rollout_ref.ref.fsdp_config.param_offload", False, "offload of the reference"),
    (f"{_ROLLOUT}.quantization", None, "quantized rollouts (fp8)"),
    ("data.use_dynamic_bsz", False, "dynamic batches of packed rows"),
    (parallelism.SFT_KEY, 1, "sequence parallelism (Ulysses)"),
    ("engine.param_offload", False, "offload of the model"),
)


def lines(findings: list[Finding], seconds: dict[str, float], missing: list[str]) -> list[str]:
    """The report, for a reader."""
    times = ", ".join(f"{name} {taken:.3g} s" for name, taken in seconds.items())
    return ["rehearsed:", *map(str, findings), f"time: {times}", "not rehearsed:", *(f"  {what}" for what in missing)]


def stage_seconds(metrics: Metrics, step: int = derive.STEPS) -> dict[str, float]:
    """Seconds of each part of a step, from VeRL's `timing_s/*`; of SFT the whole step."""
    values = metrics.get(step, {})
    return {f"step {step} {name}": round(values[f"timing_s/{key}"], 1) for key, name in STAGES.items()
            if f"timing_s/{key}" in values}  # fmt: skip
