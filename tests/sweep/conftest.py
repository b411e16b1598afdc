"""Sweeps whose members are a stand-in of `launch` that takes a moment."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain_verl import recipe_verbs, sweep

Sweep = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """`run("optim.lr=1,2", ...)` sweeps math_sft in tmp_path/runs as the sweep `s`, and returns the exit code."""
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))

    def sweeps(*words: str, recipe: str = "math_sft", id: str = "posttrain.run_id=s") -> int:
        common = [f"recipe={recipe}", "base_model=tiny", "hardware=cpu"] if recipe else []
        return sweep.run_sweep(
            "stand_in", [*common, f"posttrain.runs_dir={tmp_path}/runs", id, *words], [], recipe_verbs.page_of_sweep
        )

    return sweeps


@pytest.fixture
def record(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    """What sweep.json says."""
    return lambda: json.loads((tmp_path / "runs/multirun/s/sweep.json").read_text())
