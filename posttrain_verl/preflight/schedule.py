"""Steps, and what happens on which of them: the last step must be reached, or VeRL ends without saving."""

from __future__ import annotations

from posttrain_verl.compose import Composed
from posttrain_verl.preflight import data
from posttrain_verl.problem import Problem


def check(composed: Composed) -> list[Problem]:
    """Problems of the number of steps and of the frequencies."""
    return _unreachable_end(composed) + _frequencies(composed) + _resume(composed)


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
    return problems


def _resume(composed: Composed) -> list[Problem]:
    trainer = composed.verl.trainer
    if trainer.resume_mode != "resume_path":
        return []
    path = trainer.resume_from_path
    if not isinstance(path, str) or "global_step_" not in path:
        what = f"trainer.resume_mode=resume_path, but trainer.resume_from_path={path}"
        return [Problem(what, "give a checkpoint folder: <run>/checkpoints/global_step_N")]
    return []
