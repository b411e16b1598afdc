"""`cluster=ray`: a launch submitted to a head through Ray's Job API, on a cluster of two nodes."""

import json
import os
import subprocess
import sys

import pytest

from posttrain_verl.run.folder import RunFolder

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


def test_members_of_a_sweep_run_side_by_side_and_one_that_fails_ends_no_other(cluster, shared, tmp_path):
    """Two devices, members of one each: the third, whose learning rate is beyond all bounds, waits for a place."""
    words = ["recipe=math_sft", "base_model=tiny", "mix=embedded", "cluster=ray", f"address={cluster.dashboard}",
             f"posttrain.cluster.python={sys.executable}", f"posttrain.cluster.runs_dir={tmp_path}/there",
             f"+posttrain.cluster.env.POSTTRAIN_CACHE={shared['POSTTRAIN_CACHE']}", "trainer.n_gpus_per_node=1",
             f"posttrain.runs_dir={tmp_path}/runs", "posttrain.run_id=s", f"posttrain.data_dir={tmp_path}/data",
             "trainer.total_training_steps=3", "trainer.save_freq=3", "trainer.test_freq=3", "data.train_batch_size=8",
             "data.max_length=96", "posttrain.skip=[values]", "optim.lr=1e-5,1e-2,1e38"]  # fmt: skip
    command = [sys.executable, "-m", "posttrain_verl.launch", "-m", *words]
    environ = {**os.environ, **shared, **cluster.client}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 1, done.stdout + done.stderr
    members = json.loads((tmp_path / "runs/multirun/s/sweep.json").read_text())["members"]
    assert [member["state"] for member in members] == ["done", "done", "failed"]
    first, second, third = (RunFolder(tmp_path / f"there/math_sft/s-{number}").read_status() for number in range(3))
    assert first.started < second.ended and second.started < first.ended, "the two were not side by side"
    assert members[2]["why"] == third.why != "", "the reason comes back from the cluster"
    assert third.started > min(first.ended, second.ended), "there was no third device"
    assert "val/loss" in done.stdout and "optim.lr=0.01" in done.stdout
    assert "1 not done; go on with them: -m posttrain.sweep=s" in " ".join(done.stdout.split())
    assert (tmp_path / "runs/multirun/s/sweep.html").stat().st_size > 1000
