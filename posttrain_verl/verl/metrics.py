"""The metrics that VeRL 0.9.1's trainers log to metrics.jsonl: each is named here once.

A name that ends in "/" begins the names of several metrics. A reader sees a `Metric` by the names that it has here. A stage
whose trainer logs more declares it as `own_metrics`. One whose trainer logs the same under other names adds them to the tables
below; the report, the watch and the live line read those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A metric with its `name` in sentences, its `short` one on the live line, and whether more of it is better.

    `why` says below a figure of it what a reader should look for.
    """

    key: str
    name: str
    short: str
    rises: bool = False
    why: str = ""


REWARD = Metric("critic/score/mean", "Reward", "reward", rises=True)
VALIDATION_LOSS = Metric("val/loss", "Held-out loss", "val loss")
TRAINING_LOSS = Metric("train/loss", "Loss", "loss")
RESPONSE_LENGTH = Metric("response_length/mean", "Response length", "length")

HEADLINES = (REWARD, VALIDATION_LOSS, TRAINING_LOSS)  # what says how a run goes: the first that was measured counts
LIVE = (REWARD, TRAINING_LOSS, RESPONSE_LENGTH)  # on the line that changes

PENALIZED_REWARD = "critic/rewards/mean"
REWARD_PARTS = "reward/"  # ours, of `replay_buffer`
ACCURACY_PART, SCORE_PART = "reward/acc/mean", "reward/score/mean"
VERIFIER_ERRORS = "reward/verifier_error/mean"
# Ours, of `replay_buffer`: the answers of a step without a reward of their own, which VeRL leaves out of its means.
FAILED_ANSWERS, FAILED_SHARE = "failed_answers/count", "failed_answers/share"
ADVANTAGE_MOST, ADVANTAGE_LEAST = "critic/advantages/max", "critic/advantages/min"
VALIDATION_CORE = "val-core/"  # of each source what VeRL judges a validation by
HELD_OUT_ACCURACY, HELD_OUT_REWARD = (
    "held-out accuracy/",
    "held-out reward/",
)  # names of ours for it; see `with_held_out`
VALIDATIONS = ("val-", "val/")

LOSSES = ("actor/loss", "actor/pg_loss", "critic/vf_loss", TRAINING_LOSS.key, VALIDATION_LOSS.key)
GRADIENT_NORMS = {"actor": "actor/grad_norm", "critic": "critic/grad_norm", "model": "train/grad_norm"}
LEARNING_RATES = {"actor": "actor/lr", "critic": "critic/lr", "model": "train/lr"}
ENTROPY = "actor/entropy"
STEP_KL, REFERENCE_KL, KL_PENALTY = "actor/ppo_kl", "actor/kl_loss", "actor/reward_kl_penalty"
ROLLOUT_KL = "rollout_corr/kl"
ROLLOUT_CORRELATION = "training/rollout_actor_probs_pearson_corr"  # of the probabilities of rollout and trainer
TEACHER = "distillation/"  # a part of the names in a step with a teacher

PAIR_ACCURACY = "train/accuracy"  # the share of pairs whose chosen answer has the higher implicit reward
HELD_OUT_PAIR_ACCURACY = "val/accuracy"
CHOSEN_LOG_PROBABILITY = "train/chosen_logp"  # of a token, in nats
GLOBAL_STEP = "training/global_step"

LONGEST_RESPONSE, LONGEST_PROMPT = "response_length/max", "prompt_length/max"
CUT_OFF = "response_length/clip_ratio"
STEP_TOKENS = ("perf/total_num_tokens", "train/global_tokens")  # on all devices; RL and SFT
THROUGHPUT = ("perf/throughput", "train/tokens_per_second")  # tokens a second and device
STEP_SECONDS = "perf/time_per_step"
# Peaks in GiB of the process that trains on a device, and what the machine uses; RL and SFT have the one or the other name.
ALLOCATED = ("perf/max_memory_allocated_gb", "actor/perf/max_memory_allocated_gb")
RESERVED = ("perf/max_memory_reserved_gb", "actor/perf/max_memory_reserved_gb")
HOST_MEMORY = ("perf/cpu_memory_used_gb", "actor/perf/cpu_memory_used_gb")

TIME_OF_STEP = "timing_s/step"
STEP_PARTS = {  # the seconds of each part of a step, and its name for a reader
    "gen": "rollouts",
    "reward": "reward",
    "old_log_prob": "old log-probabilities",
    "ref": "reference",
    "values": "values of the critic",
    "adv": "advantages",
    "update_critic": "critic",
    "update_actor": "update",
    "update_weights": "weights to vLLM",
    "testing": "validation",
    "save_checkpoint": "checkpoint",
    "dump_rollout_generations": "writing rollouts",
}
SHOWN = {  # of a step, in this order
    **{metric.key: metric.short for metric in (REWARD, TRAINING_LOSS, VALIDATION_LOSS, RESPONSE_LENGTH)},
    PAIR_ACCURACY: "accuracy",
    HELD_OUT_PAIR_ACCURACY: "val accuracy",
    FAILED_ANSWERS: "answers without a reward",
    GRADIENT_NORMS["actor"]: "grad",
    GRADIENT_NORMS["model"]: "grad",
    TIME_OF_STEP: "s/step",
}


_HELD_OUT = re.compile(rf"{VALIDATION_CORE}(?P<source>.+)/(?P<part>acc|reward)/(?P<figure>(?:mean|best|maj)@.+)")


def with_held_out(data: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of one line of metrics.jsonl, with those of a validation named for what they are.

    `val-core/<source>/<part>/<figure>` becomes `held-out accuracy/<source>/<figure>` where the grades have an `acc` of their own,
    else `held-out reward/<source>/<figure>`. VeRL's reward managers log a plain number as `acc`, too (verl 0.9.1,
    experimental/reward_loop/reward_manager). Of a grade with parts they log each part, so `score` stands beside its `acc`.
    """
    found = {}
    for key, value in data.items():
        parsed = _HELD_OUT.fullmatch(key) if key.startswith(VALIDATION_CORE) else None
        if parsed:
            has_acc = parsed["part"] == "acc" and _grades_with_parts(parsed["source"], data)
            key = f"{HELD_OUT_ACCURACY if has_acc else HELD_OUT_REWARD}{parsed['source']}/{parsed['figure']}"
        if not (key == ACCURACY_PART and SCORE_PART not in data):
            found[key] = value
    return found


def _grades_with_parts(source: str, data: Mapping[str, Any]) -> bool:
    return any(key.startswith(f"val-aux/{source}/score/") for key in data)


def means_first(keys: Iterable[str]) -> list[str]:
    """The keys in order, those of a mean over all answers before those of the best answer or of the majority."""
    return sorted(keys, key=lambda key: ("/mean@" not in key, key))


def part_seconds(part: str) -> str:
    """The metric of the seconds that a part of a step took."""
    return f"timing_s/{part}"
