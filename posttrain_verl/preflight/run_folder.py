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
    remedy = f"choose another posttrain.run_id, or go on with that run: python -m posttrain_verl.launch run={folder}"
    return [Problem(f"{folder} exists already", remedy)]
