"""Recipes composed for a cluster, without one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain_verl.clusters import ray_job
from posttrain_verl.clusters.ray_job import RayJob
from posttrain_verl.compose import compose
from posttrain_verl.verl.composed import Composed

WORDS = ["recipe=math_sft", "base_model=tiny", "mix=embedded"]
Compose = Callable[..., Composed]


@pytest.fixture
def composed(tmp_path: Path) -> Compose:
    """`composed("cluster=slurm", ...)`, with data and runs in a folder of the test."""

    def make(*words: str) -> Composed:
        folders = [f"posttrain.data_dir={tmp_path}/data", f"posttrain.runs_dir={tmp_path}/runs", "posttrain.run_id=it"]
        return compose([*WORDS, *folders, *words])

    return make


class Head:
    """Stands for Ray's client: keeps what is submitted, and has forgotten every earlier job."""

    submitted: dict

    def submit_job(self, **words):
        self.submitted = words
        return words["submission_id"]

    def get_address(self):
        return "http://h:1"

    def get_job_info(self, id: str):
        raise RuntimeError(f"Request failed with status code 404: Job {id} does not exist.")

    get_job_status = get_job_logs = get_job_info


@pytest.fixture
def head(monkeypatch):
    made = Head()
    monkeypatch.setattr(RayJob, "client", made)
    monkeypatch.setattr(RayJob, "fetch", lambda self, target: False)
    monkeypatch.setattr(ray_job, "connect_head", lambda address: made)
    return made
