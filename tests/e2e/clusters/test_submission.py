"""`cluster=ray`: a launch submitted to a head through Ray's Job API, on a cluster of two nodes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from posttrain_verl.run.folder import RunFolder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


ENVIRONMENT = """
import sys
from posttrain_verl.clusters.ray_job import connect_head
print(connect_head(sys.argv[1]).get_job_info(sys.argv[2]).runtime_env["env_vars"].get("NCCL_DEBUG_SUBSYS"))
"""
COUNT = "from posttrain_verl.clusters import ray; import sys; print(ray.count_devices(sys.argv[1]))"


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
    run = launch("math_sft", *words, variables=cluster.client | {"NCCL_DEBUG_SUBSYS": "ENV"})
    run.assert_done([1, 2])
    assert run.status.job and run.status.job["address"] == cluster.dashboard
    assert in_a_shell(cluster, "-c", ENVIRONMENT, cluster.dashboard, run.status.job["id"]).split()[-1] == "ENV"
    assert (there / "math_sft/it/checkpoints/global_step_2").is_dir()
    assert not run.folder.checkpoints.exists(), "checkpoints stay on the cluster"
    assert json.loads(run.folder.plan.read_text())["recipe"] == "math_sft"
    assert "step 2: loss" in in_a_shell(cluster, "-m", "posttrain_verl.logs", f"run={run.folder.path}")
    assert not any(
        cluster.token in file.read_text(errors="replace") for file in run.folder.path.rglob("*") if file.is_file()
    )


@pytest.mark.nightly  # three minutes
def test_members_of_a_sweep_run_side_by_side_and_go_on_where_they_ended(cluster, shared, tmp_path):
    """Two devices, members of one each. The driver of the first is killed, the learning rate of the third is beyond all
    bounds, and none ends another; the sweep goes on with the first from its newest checkpoint."""
    words = ["recipe=math_sft", "base_model=tiny", "mix=embedded", "cluster=ray", f"address={cluster.dashboard}",
             f"posttrain.cluster.python={sys.executable}", f"posttrain.cluster.runs_dir={tmp_path}/there",
             f"+posttrain.cluster.env.POSTTRAIN_CACHE={shared['POSTTRAIN_CACHE']}", "trainer.n_gpus_per_node=1",
             f"posttrain.runs_dir={tmp_path}/runs", "posttrain.run_id=s", f"posttrain.data_dir={tmp_path}/data",
             "posttrain.watch.retries=0",  # by default a job starts again by itself; here the sweep is to go on
             "trainer.total_training_steps=80", "trainer.save_freq=10", "trainer.test_freq=80", "data.train_batch_size=8",
             "trainer.total_epochs=100", "data.max_length=96", "posttrain.skip=[values]", "optim.lr=1e-5,1e-2,1e38"]  # fmt: skip
    folders = [RunFolder(tmp_path / f"there/math_sft/s-{number}") for number in range(3)]
    with in_background(cluster, shared, *words) as sweep:
        while sweep.poll() is None and not (folders[0].checkpoints / "latest_checkpointed_iteration.txt").exists():
            time.sleep(0.05)
        os.kill(folders[0].read_status().pid, signal.SIGKILL)
        said, _ = sweep.communicate(timeout=800)
    assert sweep.returncode == 1, said
    members = json.loads((tmp_path / "runs/multirun/s/sweep.json").read_text())["members"]
    assert [member["state"] for member in members] == ["failed", "done", "failed"]
    first, second, third = (folder.read_status() for folder in folders)
    assert first.started < second.ended and second.started < first.ended, "the two were not side by side"
    assert members[2]["why"] == third.why != "", "the reason comes back from the cluster"
    assert third.started > min(first.ended, second.ended), "there was no third device"
    assert "val/loss" in said and "optim.lr=0.01" in said
    assert "2 not done; resume them: -m posttrain.sweep=s" in " ".join(said.split())
    assert (tmp_path / "runs/multirun/s/sweep.html").stat().st_size > 1000

    with in_background(cluster, shared, "posttrain.sweep=s", f"posttrain.runs_dir={tmp_path}/runs") as sweep:
        said, _ = sweep.communicate(timeout=800)
    members = json.loads((tmp_path / "runs/multirun/s/sweep.json").read_text())["members"]
    assert [member["state"] for member in members] == ["done", "done", "failed"], said
    assert "member 1 is done already" in said
    printed = (tmp_path / "runs/multirun/s/member-0.txt").read_text()
    assert f"resuming from {folders[0].checkpoints}/global_step_" in printed
    steps = [json.loads(line)["step"] for line in folders[0].metrics.read_text().splitlines() if "train/loss" in line]
    assert steps == list(range(1, 81))
    assert folders[0].read_status().attempt == 2


def in_background(cluster, shared, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "posttrain_verl.launch", "-m", *words]
    environ = {**os.environ, **shared, **cluster.client}
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
