"""`cluster=ray`: a launch submitted to a head through Ray's Job API, on a cluster of two nodes."""

import json
import sys

import pytest

from posttrain_verl.clusters import ray
from posttrain_verl.clusters.job import Job

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_a_job_trains_on_two_nodes_and_its_files_come_back(launch, cluster, shared, tmp_path, monkeypatch):
    for name, value in cluster.client.items():
        monkeypatch.setenv(name, value)
    assert ray.devices(cluster.dashboard) == 2
    there = tmp_path / "there"
    words = ["cluster=ray", f"address={cluster.dashboard}", f"posttrain.cluster.runs_dir={there}", "trainer.nnodes=2",
             "data.train_batch_size=16", f"posttrain.cluster.python={sys.executable}",
             "trainer.n_gpus_per_node=1", f"+posttrain.cluster.env.POSTTRAIN_CACHE={shared['POSTTRAIN_CACHE']}"]  # fmt: skip
    run = launch("math_sft", *words)
    run.assert_done([1, 2])
    assert run.status.job and run.status.job["address"] == cluster.dashboard
    assert (there / "math_sft/it/checkpoints/global_step_2").is_dir()
    assert not run.folder.checkpoints.exists(), "checkpoints stay on the cluster"
    assert json.loads(run.folder.plan.read_text())["recipe"] == "math_sft"
    assert "step 2: loss" in Job(**run.status.job).logs()
    assert not any(
        cluster.token in file.read_text(errors="replace") for file in run.folder.path.rglob("*") if file.is_file()
    )
