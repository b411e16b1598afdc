"""What reaches the processes of a run: the variables of the shell, and what its workers must know of each other."""

import pytest
from omegaconf import OmegaConf

from posttrain_verl.run import environment
from reward_fns.code.cores import SHARERS


@pytest.mark.parametrize(("workers", "nodes", "expected"), [(8, 1, "8"), (8, 2, "4"), (8, 3, "3"), (1, 1, "1")])
def test_reward_workers_know_how_many_share_a_node(workers, nodes, expected):
    config = OmegaConf.create({"reward": {"num_workers": workers}, "trainer": {"nnodes": nodes}})
    assert environment._reward_workers(config) == {SHARERS: expected}


def test_sft_has_no_reward_workers():
    assert environment._reward_workers(OmegaConf.create({"trainer": {"nnodes": 1}})) == {}


def test_hidden_gpus_do_not_keep_ray_from_its_logical_ones(monkeypatch):
    """Ray 2.60 refuses to start more GPUs than CUDA_VISIBLE_DEVICES names, and with `CUDA_VISIBLE_DEVICES=` that is none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert environment.of_processes("cpu", True)["CUDA_VISIBLE_DEVICES"].split(",") == ["-1"] * environment.LOGICAL_GPUS
    assert "CUDA_VISIBLE_DEVICES" not in environment.of_processes("8xh100", True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "CUDA_VISIBLE_DEVICES" not in environment.of_processes("cpu", True)
