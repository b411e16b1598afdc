"""The run folder: a launch never writes into a folder that another launch has."""

from __future__ import annotations

from posttrain_verl.compose import Composed
from posttrain_verl.problem import Problem


def check(composed: Composed) -> list[Problem]:
    """A problem if `posttrain.run_id` names a run that exists."""
    run_id = composed.posttrain.run_id
    if run_id is None:
        return []
    folder = composed.run_dir()
    if not folder.exists():
        return []
    remedy = (
        "choose another posttrain.run_id; to go on from a checkpoint of that run, launch a new one with\n"
        f"trainer.resume_mode=resume_path trainer.resume_from_path={folder}/checkpoints/global_step_N"
    )
    return [Problem(f"{folder} exists already", remedy)]
