"""Numbers that decide whether a model learns: the effective batch and the learning rate. Small CPU runs are left alone."""

from __future__ import annotations

from posttrain_verl.compose import Composed
from posttrain_verl.plan import arithmetic
from posttrain_verl.preflight import batch
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.problem import Problem, blocking, warning

SMALLEST_BATCH = 64  # sequences of an optimizer step; published full fine-tuning runs take 64 to 128 and more
# (stage, LoRA): (lowest, usual, highest) learning rate of published runs; the sources are in docs/plan.md
RATES = {
    ("sft", False): (1e-6, "2e-5", 1e-4),
    ("sft", True): (2e-5, "2e-4", 1e-3),
    ("rl", False): (1e-7, "1e-6", 1e-5),
    ("rl", True): (1e-6, "1e-5 to 3e-5", 2e-4),
}


def check(composed: Composed) -> list[Problem]:
    """An effective batch under 64 (a warning with LoRA), and a learning rate that no published run is near."""
    if composed.posttrain.hardware.name == "cpu":
        raise CannotTell("runs on the CPU are small on purpose")
    if blocking(batch.check(composed)):
        raise CannotTell("the batch is not sound")
    return _batch(composed) + _rate(composed)


def lora(composed: Composed) -> bool:
    model = composed.verl.model if composed.stage == "sft" else composed.verl.actor_rollout_ref.model
    return bool(model.lora_rank)


def _batch(composed: Composed) -> list[Problem]:
    effective = arithmetic.of(composed).effective
    if effective >= SMALLEST_BATCH or composed.posttrain.small_batch:
        return []
    key = "data.train_batch_size" if composed.stage == "sft" else "actor_rollout_ref.actor.ppo_mini_batch_size"
    what = f"the effective batch is {effective} sequences an optimizer step, and published runs take {SMALLEST_BATCH} or more"
    if lora(composed):
        return [warning(what, "LoRA is often run so; raise " + key + " if the loss is noisy")]
    return [Problem(what, f"raise {key}, or say that it is meant: posttrain.small_batch=true")]


def _rate(composed: Composed) -> list[Problem]:
    optim = composed.verl.optim if composed.stage == "sft" else composed.verl.actor_rollout_ref.actor.optim
    lowest, usual, highest = RATES[(composed.stage, lora(composed))]
    if not isinstance(optim.lr, int | float) or lowest <= optim.lr <= highest or composed.posttrain.base_model.embedded:
        return []
    mode = f"{composed.stage.upper()} with {'LoRA' if lora(composed) else 'full fine-tuning'}"
    return [warning(f"the learning rate {optim.lr:g} is far from what {mode} takes ({usual})", f"usual: {usual}")]
