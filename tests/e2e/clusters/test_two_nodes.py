"""A launch on a cluster of two nodes that the user started: RAY_ADDRESS names it."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from posttrain_verl.cpu import warm
from posttrain_verl.run import ray_state

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_two_nodes_train_and_roll_out_together(launch, cluster):
    variables = cluster.client | {"RAY_ADDRESS": cluster.address}
    run = launch("math_grpo", "trainer.nnodes=2", "trainer.n_gpus_per_node=1", variables=variables)
    run.assert_done([1, 2])
    run.assert_rollouts_follow()
    assert not run.segments
    shards = run.folder.checkpoints.glob("global_step_2/actor/model_world_size_2_rank_*.pt")
    assert len(list(shards)) == 2


def test_a_node_that_is_lost(launch, cluster, shared, bound):
    """The last test of the cluster: one of its two raylets is killed."""
    sent = []

    def trained_a_step(folder):
        return folder.metrics.exists() and folder.metrics.stat().st_size > 0

    def kill_the_second(supervisor, folder):
        workers = [one.pid for one in ray_state.read_members(folder.cluster_file) if one.name.endswith("WorkerDict")]
        raylets = [raylet_of(worker, shared) for worker in workers]
        sent.append(time.time())
        os.kill(next(raylet for raylet in raylets if not is_head(raylet)).pid, signal.SIGKILL)

    variables = cluster.client | {"RAY_ADDRESS": cluster.address}
    run = launch("math_grpo", "trainer.nnodes=2", "trainer.n_gpus_per_node=1", "trainer.total_training_steps=500",
                 "trainer.save_freq=-1", variables=variables, at=trained_a_step, strike=kill_the_second)  # fmt: skip
    assert run.code == 1
    assert run.status.rule == "dead", run.explained()
    assert run.events[-1]["time"] - sent[0] <= bound(15)
    assert not run.segments


def raylet_of(worker, shared):
    """The raylet that started the worker: its parent, or that of the client that stands for this fork of the warm Python."""
    if not (python := warm.executable(shared)):
        return psutil.Process(worker).parent()
    forks = Path(python).with_name(warm.FORKS)
    clients = {}
    for file in forks.iterdir():
        with suppress(OSError, ValueError):  # a fork of another process that begins or ends
            clients[int(file.read_text().split(".")[0])] = int(file.name.split(".")[0])
    return psutil.Process(clients[worker]).parent()


def is_head(raylet):
    return any(process.name() == "gcs_server" for process in raylet.parent().children())
