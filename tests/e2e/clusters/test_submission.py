"""`cluster=ray`: a launch submitted to a head through Ray's Job API, on a cluster of two nodes."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


COUNT = "from posttrain_verl.clusters import ray; import sys; print(ray.devices(sys.argv[1]))"


def in_a_shell(cluster, *words: str) -> str:
    """What a Python with the cluster's token prints: this one has read a token already, and Ray reads it once a process."""
    environment = {**os.environ, **cluster.client}
    return subprocess.check_output([sys.executable, *words], env=environment, text=True, timeout=120)


def test_a_job_trains_on_two_nodes_and_its_files_come_back(launch, cluster, shared, tmp_path):
    assert in_a_shell(cluster, "-c", COUNT, cluster.dashboard).split()[-1] == "2"
    there = tmp_path / "there"
    words = ["cluster=ray", f"address={cluster.dashboard}", f"posttrain.cluster.runs_dir={there}", "trainer.nnodes=2",
             "data.train_batch_size=16", f"posttrain.cluster.python={sys.executable}",
             "trainer.n_gpus_per_node=1", f"+posttrain.cluster.env.POSTTRAIN_CACHE={shared['POSTTRAIN_CACHE']}"]  # fmt: skip
    run = launch("math_sft", *words, variables=cluster.client)
    run.assert_done([1, 2])
    assert run.status.job and run.status.job["address"] == cluster.dashboard
    assert (there / "math_sft/it/checkpoints/global_step_2").is_dir()
    assert not run.folder.checkpoints.exists(), "checkpoints stay on the cluster"
    assert json.loads(run.folder.plan.read_text())["recipe"] == "math_sft"
    assert "step 2: loss" in in_a_shell(cluster, "-m", "posttrain_verl.logs", f"run={run.folder.path}")
    assert not any(
        cluster.token in file.read_text(errors="replace") for file in run.folder.path.rglob("*") if file.is_file()
    )
