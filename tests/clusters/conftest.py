"""Recipes composed for a cluster, without one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain_verl.compose import Composed, compose

WORDS = ["recipe=math_sft", "base_model=tiny", "mix=embedded"]
Compose = Callable[..., Composed]


@pytest.fixture
def composed(tmp_path: Path) -> Compose:
    """`composed("cluster=slurm", ...)`, with data and runs in a folder of the test."""

    def make(*words: str) -> Composed:
        folders = [f"posttrain.data_dir={tmp_path}/data", f"posttrain.runs_dir={tmp_path}/runs", "posttrain.run_id=it"]
        return compose([*WORDS, *folders, *words])

    return make
