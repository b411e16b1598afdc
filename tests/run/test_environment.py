"""What reaches the processes of a run: the variables of the shell, and what its workers must know of each other."""

import pytest
from omegaconf import OmegaConf

from posttrain_verl.run import environment
from posttrain_verl.verl.checkpoints import STAGE_VARIABLE
from posttrain_verl.verl.stage import stage_named
from reward_fns.code.cores import SHARERS


@pytest.mark.parametrize(("workers", "nodes", "expected"), [(8, 1, "8"), (8, 2, "4"), (8, 3, "3"), (1, 1, "1")])
def test_reward_workers_know_how_many_share_a_node(workers, nodes, expected):
    config = OmegaConf.create({"reward": {"num_workers": workers}, "trainer": {"nnodes": nodes}})
    assert environment._share_cores(stage_named("rl").settings(config)) == {SHARERS: expected}


def test_sft_has_no_reward_workers():
    assert environment._share_cores(stage_named("sft").settings(OmegaConf.create({"trainer": {"nnodes": 1}}))) == {}


def test_hidden_gpus_do_not_keep_ray_from_its_logical_ones(monkeypatch):
    """Ray 2.60 refuses to start more GPUs than CUDA_VISIBLE_DEVICES names, and with `CUDA_VISIBLE_DEVICES=` that is none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (
        environment.process_variables("cpu", True)["CUDA_VISIBLE_DEVICES"].split(",")
        == ["-1"] * environment.LOGICAL_GPUS
    )
    assert "CUDA_VISIBLE_DEVICES" not in environment.process_variables("8xh100", True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "CUDA_VISIBLE_DEVICES" not in environment.process_variables("cpu", True)


def test_the_workers_of_a_run_know_its_stage(monkeypatch):
    """The callback that deletes old checkpoints runs in a worker, and is given VeRL's config alone."""
    monkeypatch.setenv(STAGE_VARIABLE, "toy")
    assert environment.forwarded_variables()[STAGE_VARIABLE] == "toy"


@pytest.mark.parametrize(
    ("nodes", "options", "address", "is_local"),
    [(1, {}, "", True), (2, {}, "", False), (1, {"address": "10.0.0.1:6379"}, "", False),
     (1, {"_node_ip_address": "10.0.0.1"}, "", False), (1, {}, "10.0.0.1:6379", False)],
)  # fmt: skip
def test_only_a_ray_of_the_runs_own_is_kept_on_the_loopback(monkeypatch, nodes, options, address, is_local):
    """A driver that takes itself for 127.0.0.1 cannot join the nodes of a cluster."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    config = OmegaConf.create({"trainer": {"nnodes": nodes}, "ray_kwargs": {"ray_init": options}})
    found = environment.loopback_variables(stage_named("sft").settings(config))
    assert found == (environment.LOOPBACK_ONLY if is_local else {})
