"""Steps, and what happens on which of them: the last step must be reached, or VeRL ends without saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain_verl.compose import Composed
from posttrain_verl.preflight import data
from posttrain_verl.problem import Problem, warning

ONE_OF_RL = ("max_actor_ckpt_to_keep", "max_critic_ckpt_to_keep")


def check(composed: Composed) -> list[Problem]:
    """Problems of the number of steps and of the frequencies."""
    return _unreachable_end(composed) + _frequencies(composed) + _resume(composed) + _beginnings(composed)


def steps(composed: Composed) -> int | None:
    """Trainer steps of the run; None when the data is not there to be counted."""
    trainer, available = composed.verl.trainer, _steps_in_data(composed)
    if isinstance(trainer.total_training_steps, int):
        return trainer.total_training_steps
    return available


def _steps_in_data(composed: Composed) -> int | None:
    rows, batch = data.rows(composed, "train_files"), composed.verl.data.train_batch_size
    epochs = composed.verl.trainer.total_epochs
    if rows is None or not isinstance(batch, int) or batch < 1 or not isinstance(epochs, int):
        return None
    return rows // batch * epochs


def _unreachable_end(composed: Composed) -> list[Problem]:
    """VeRL 0.9.1 saves and validates last at total_training_steps; epochs that end earlier leave no checkpoint."""
    wanted, available = composed.verl.trainer.total_training_steps, _steps_in_data(composed)
    if not isinstance(wanted, int) or available is None or not 0 < available < wanted:
        return []
    epochs = composed.verl.trainer.total_epochs
    per_epoch = available // epochs
    what = (
        f"trainer.total_training_steps={wanted}, but the data ends after {available} steps ({epochs} epochs of "
        f"{per_epoch}): VeRL would end there without its last checkpoint"
    )
    return [Problem(what, f"set trainer.total_epochs={-(-wanted // per_epoch)} or fewer steps")]


def _frequencies(composed: Composed) -> list[Problem]:
    trainer, problems = composed.verl.trainer, []
    if composed.stage == "sft":
        problems += [
            Problem(f"trainer.{key}=0: VeRL's SFT trainer divides by it", f"set trainer.{key}=-1 for never")
            for key in ("save_freq", "test_freq")
            if trainer.get(key) == 0
        ]
        if not composed.verl.data.val_files and trainer.test_freq not in (-1, 0):
            what = f"trainer.test_freq={trainer.test_freq}, but data.val_files is null"
            problems.append(Problem(what, "give data.val_files, or trainer.test_freq=-1"))
        return problems + _profiling(trainer.profile_interval)
    problems += [
        Problem(
            f"trainer.{key}={trainer[key]}: VeRL's RL trainer takes a number of steps", f"set trainer.{key}=20, or -1"
        )
        for key in ("save_freq", "test_freq")
        if isinstance(trainer.get(key), str)
    ]
    if trainer.save_freq in (-1, 0):
        what = f"trainer.save_freq={trainer.save_freq}: VeRL's RL trainer never saves then, not even at the end"
        problems.append(warning(what, "set trainer.save_freq to the number of steps, or fewer"))
    return problems + [_only_one(key) for key in ONE_OF_RL if trainer.get(key) == 1]


def _only_one(key: str) -> Problem:
    what = (
        f"trainer.{key}=1: VeRL logs an RL step after its checkpoint and validation; a run that is killed in between resumes "
        "from the checkpoint before, which is gone"
    )
    return warning(
        what, f"trainer.{key}=2, for which VeRL needs no more disk: it then deletes the oldest before it writes"
    )


def _profiling(interval: Any) -> list[Problem]:
    """SFTTrainer asserts that it is two steps in order, or [-1, -1]."""
    steps = list(interval or [])
    if len(steps) == 2 and all(isinstance(step, int) for step in steps):
        first, last = steps
        if last >= first and (first >= 0 or last < 0):
            return []
    return [Problem(f"trainer.profile_interval={steps} is no first and last step", "set [-1,-1] for never")]


def _resume(composed: Composed) -> list[Problem]:
    """The checkpoint to go on from: named, there, and with something left to train."""
    trainer = composed.verl.trainer
    path = trainer.resume_from_path
    wanted = trainer.resume_mode == "resume_path" or (
        composed.stage == "sft" and trainer.resume_mode == "auto" and path
    )
    if not wanted:
        return []
    name = Path(path).name if isinstance(path, str) else ""
    step = name.removeprefix("global_step_")
    if not name.startswith("global_step_") or not step.isdecimal():
        what = f"trainer.resume_mode={trainer.resume_mode}, but trainer.resume_from_path={path}"
        return [Problem(what, "give a checkpoint folder: <run>/checkpoints/global_step_N")]
    if not Path(path).expanduser().is_dir():
        return [Problem(f"trainer.resume_from_path={path} does not exist", "give a checkpoint folder that does")]
    return _left_to_train(composed, int(step))


def _left_to_train(composed: Composed, step: int) -> list[Problem]:
    total, in_data, epochs = steps(composed), _steps_in_data(composed), composed.verl.trainer.total_epochs
    if total is not None and step >= total:
        remedy = f"set trainer.total_training_steps or trainer.total_epochs for more than {step} steps"
        return [
            Problem(
                f"the checkpoint is of step {step}, and the run ends after {total}: nothing is left to train", remedy
            )
        ]
    per_epoch = in_data // epochs if in_data else 0
    if composed.stage == "sft" and per_epoch and step % per_epoch == 0:
        what = (
            f"the checkpoint of step {step} is of the end of an epoch of {per_epoch} steps: VeRL's SFT trainer finds its "
            "loader exhausted and ends without training (upstream #7401)"
        )
        return [
            Problem(what, "resume from an earlier checkpoint, or export it and start from that folder as base_model=")
        ]
    return []


def _beginnings(composed: Composed) -> list[Problem]:
    """Phases before the real training that are as long as all of it."""
    total, trainer = steps(composed), composed.verl.trainer
    if total is None:
        return []
    problems = []
    critic = trainer.get("critic_warmup", 0)
    if isinstance(critic, int) and critic >= total:
        what = f"trainer.critic_warmup={critic} of {total} steps: the actor would never be trained"
        problems.append(Problem(what, "set trainer.critic_warmup lower"))
    optim = composed.verl.optim if composed.stage == "sft" else composed.verl.actor_rollout_ref.actor.optim
    warmup = optim.lr_warmup_steps
    if isinstance(warmup, int) and warmup >= total:
        what = f"the learning rate warms up for lr_warmup_steps={warmup} of {total} steps, and never reaches lr"
        problems.append(warning(what, "set lr_warmup_steps lower"))
    return problems
