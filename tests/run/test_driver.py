"""How the driver starts Ray, without starting it."""

import inspect
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import ray
from omegaconf import OmegaConf
from ray._private import services

from posttrain_verl.run import driver, environment
from posttrain_verl.verl import stage


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path))


@pytest.fixture
def most_at_once(monkeypatch):
    """`most_at_once(config)` starts three Rays at the same moment, and says how many of the starts overlapped."""
    running, seen = [], []

    def init(**_):
        running.append(1)
        seen.append(len(running))
        time.sleep(0.1)
        running.pop()

    monkeypatch.setattr(ray, "init", init)

    def start(config):
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda _: driver.start_ray(config, {"env_vars": {}}), range(3)))
        return max(seen)

    return start


def config(**init):
    return stage.Settings(
        OmegaConf.create({"trainer": {"nnodes": 1, "n_gpus_per_node": 1}, "ray_kwargs": {"ray_init": init}})
    )


def test_launches_at_the_same_moment_start_their_rays_one_after_another(most_at_once, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert most_at_once(config()) == 1


def test_a_ray_that_is_up_is_joined_at_once(most_at_once):
    assert most_at_once(config(address="10.0.0.1:6379")) > 1


def test_a_node_that_takes_longer_than_ray_waits(monkeypatch):
    asked = []

    def registers_late(address, node):
        asked.append(node)
        if len(asked) < 4:
            raise RuntimeError("Failed to get node info")
        return {"node": node}

    monkeypatch.setattr(services, "get_node", registers_late)
    monkeypatch.setattr(driver, "own_raylets", lambda: ["one"])
    with driver.patient_start(poll=0.01):
        assert services.get_node("127.0.0.1:1", "n") == {"node": "n"}
    assert services.get_node is registers_late, "a cluster that is joined is asked as Ray asks it"
    asked.clear()
    with driver.patient_start(seconds=0), pytest.raises(RuntimeError):
        services.get_node("127.0.0.1:1", "n")
    asked.clear()
    monkeypatch.setattr(driver, "own_raylets", list)
    with driver.patient_start(poll=0.01), pytest.raises(RuntimeError):
        services.get_node("127.0.0.1:1", "n")
    assert len(asked) == 1, "a raylet that is gone will not register"


@pytest.mark.parametrize(("failures", "done"), [(2, True), (3, False)])
def test_a_ray_that_does_not_come_up_is_started_again(monkeypatch, capsys, failures, done):
    left = []

    def init(**_):
        left.append(subprocess.Popen(["sleep", "600"]))  # what a failed start leaves
        if len(left) <= failures:
            raise RuntimeError("the raylet is gone")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(driver, "own_raylets", list)
    with nullcontext() if done else pytest.raises(RuntimeError, match="the raylet is gone"):
        driver.start_own_ray({})
    assert [one.poll() is None for one in left] == [False, False, True]
    assert capsys.readouterr().out.count("starting it again") == 2
    left[-1].kill()
    left[-1].wait()


def run_of(nodes: int, devices: int):
    return stage.Settings(OmegaConf.create({"trainer": {"nnodes": nodes, "n_gpus_per_node": devices}}))


@pytest.mark.parametrize(
    ("name", "has", "said"),
    [
        ("sft", {"GPU": 8.0, "CPU": 64.0}, "has 64 CPUs.*which is 80 CPUs; start each node with --num-cpus=112 "),
        ("rl", {"GPU": 8.0, "CPU": 64.0}, None),
        ("rl", {"GPU": 6.0, "CPU": 64.0}, "has 6 GPUs, 6 of them free.*trainer.n_gpus_per_node=8, which is 8 GPUs$"),
        ("rl", {}, "has 0 GPUs"),
    ],
)
def test_a_cluster_without_what_verl_would_wait_for(monkeypatch, name, has, said):
    monkeypatch.setattr(ray, "available_resources", lambda: has)
    monkeypatch.setattr(ray, "cluster_resources", lambda: has)
    with pytest.raises(RuntimeError, match=said) if said else nullcontext():
        driver.wait_for_devices(run_of(1, 8), stage.stage_named(name).cpus_per_device, seconds=0)


@pytest.mark.parametrize("devices", [1, 4, 8])
def test_a_ray_of_our_own_counts_the_cpus_of_every_stage(devices):
    """Also where a GPU stands beside few cores."""
    cpus = environment.local_cluster(run_of(1, devices), None)["num_cpus"]
    assert cpus >= max(devices * stage.stage_named(name).cpus_per_device for name in ("sft", "rl"))
    assert environment.local_cluster(run_of(1, devices), 5)["num_cpus"] == 5, "the user's own"


def test_the_counts_are_verls():
    from verl.single_controller.ray.base import RayResourcePool, ResourcePoolManager

    sft = inspect.signature(RayResourcePool).parameters["max_colocate_count"].default
    counts = {name: stage.stage_named(name).cpus_per_device for name in ("sft", "rl")}
    assert counts == {"sft": sft, "rl": ResourcePoolManager.max_colocate_count}
