"""The effective batch: sequences whose gradients one optimizer step adds up. Small CPU runs are left alone."""

from __future__ import annotations

from posttrain_verl.compose import Composed
from posttrain_verl.plan import arithmetic
from posttrain_verl.preflight import batch
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.problem import Problem, blocking, warning

SMALLEST = 64  # sequences of an optimizer step; published full fine-tuning runs take 64 to 128 and more


def check(composed: Composed) -> list[Problem]:
    """A problem if the effective batch is under 64; with LoRA, which is often run so, a warning."""
    if composed.posttrain.hardware.name == "cpu":
        raise CannotTell("runs on the CPU are small on purpose")
    if blocking(batch.check(composed)):
        raise CannotTell("the batch is not sound")
    effective = arithmetic.of(composed).effective
    if effective >= SMALLEST or composed.posttrain.small_batch:
        return []
    sft = composed.stage == "sft"
    key = "data.train_batch_size" if sft else "actor_rollout_ref.actor.ppo_mini_batch_size"
    what = f"the effective batch is {effective} sequences an optimizer step, and published runs take {SMALLEST} or more"
    model = composed.verl.model if sft else composed.verl.actor_rollout_ref.model
    if model.lora_rank:
        return [warning(what, f"raise {key} if the loss is noisy")]
    return [Problem(what, f"raise {key}, or say that it is meant: posttrain.small_batch=true")]
