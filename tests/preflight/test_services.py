"""What a run needs of the machine around it."""

import socket
from collections import namedtuple
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from posttrain_verl.compose import compose
from posttrain_verl.preflight import model, services
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.verl.composed import Composed


@pytest.fixture(scope="module")
def composed() -> Composed:
    return compose(["recipe=math_grpo", "hardware=cpu", "base_model=tiny", "mix=embedded"])


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """No keys, no tokens, no cluster."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "WANDB_API_KEY", "WANDB_MODE",
                 "NETRC", "MASTER_PORT", "VLLM_PORT", "HF_HUB_OFFLINE", "SLURM_CPUS_ON_NODE"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def changed(composed: Composed, **changes: object) -> Composed:
    config = composed.verl.copy()
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    return replace(composed, verl=config)


def whats(problems) -> str:
    return "\n".join(problem.what for problem in problems)


def test_a_plain_launch_needs_nothing(composed):
    checks = (services.check_ray, services.check_ports, services.check_wandb, services.check_shared_memory)
    assert [problem for check in checks for problem in check(composed)] == []


def test_a_cluster_wants_a_token_and_answers(composed, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert "there is no token" in whats(services.check_ray(composed))
        monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
        assert services.check_ray(composed) == []
    assert f"nothing answers at the Ray address {address}" in whats(services.check_ray(composed))
    monkeypatch.setenv("RAY_ADDRESS", "head")
    assert "is not host:port" in whats(services.check_ray(composed))


def test_another_ray(composed, monkeypatch):
    monkeypatch.setattr(services.importlib.metadata, "version", lambda name: "2.40.0")
    assert "Ray 2.40.0 is installed" in whats(services.check_ray(composed))


def test_a_port_that_is_taken(composed, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = services.check_ports(changed(composed, ray_kwargs__ray_init__dashboard_port=port))
        assert f"dashboard_port={port} is in use" in whats(found)
        monkeypatch.setenv("MASTER_PORT", str(port))
        assert f"MASTER_PORT={port} is in use" in whats(services.check_ports(composed))


def test_shared_memory_that_cannot_be_written(composed, monkeypatch, tmp_path):
    monkeypatch.setattr(services, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(services.os, "access", lambda path, mode: path != tmp_path)
    assert f"{tmp_path} cannot be written" in whats(services.check_shared_memory(composed))


def test_ports_of_another_machine_are_not_looked_at(composed, monkeypatch):
    monkeypatch.setattr("posttrain_verl.preflight.machine._has_driver", lambda: False)
    elsewhere = replace(composed, posttrain=OmegaConf.merge(composed.posttrain, {"hardware": {"name": "8xh100"}}))
    with pytest.raises(CannotTell, match="another machine"):
        services.check_ports(elsewhere)


def test_wandb(composed, monkeypatch, tmp_path):
    asked = changed(composed, trainer__logger=["console", "wandb"])
    assert "there is no key for api.wandb.ai" in whats(services.check_wandb(asked))
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password k\n")
    assert services.check_wandb(asked) == []
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert services.check_wandb(asked) == []


def test_shared_memory(composed, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(services.shutil, "disk_usage", lambda place: usage(0, 0, 30 * services.MIB))
    (problem,) = services.check_shared_memory(composed)
    assert problem.level == "problem" and "has 30 MiB free, and an update of the weights needs 36" in problem.what
    monkeypatch.setattr(services.shutil, "disk_usage", lambda place: usage(0, 0, 64 * services.MIB))
    (problem,) = services.check_shared_memory(composed)
    assert problem.level == "warning", "a container as Docker makes it suffices for a small model"


def test_a_model_of_the_hub(composed, monkeypatch):
    asked = changed(
        composed, actor_rollout_ref__model__path="Nobody/Such-Model", critic__model__path="Nobody/Such-Model"
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE forbids to fetch it" in whats(model.check_model(asked))
    odd = changed(composed, actor_rollout_ref__model__path="not a model", critic__model__path="not a model")
    assert "neither a folder nor Organisation/Model" in whats(model.check_model(odd))


def test_slurm_gave_fewer_cpus_than_ray_counts(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    monkeypatch.setattr(services.os, "cpu_count", lambda: 64)
    planned = compose(["recipe=math_grpo", "hardware=8xh100"])
    found = services.check_ray(planned)
    assert [problem.remedy for problem in found] == ["ray_kwargs.ray_init.num_cpus=8"]
    assert services.check_ray(changed(planned, ray_kwargs__ray_init__num_cpus=8)) == []
    monkeypatch.setattr(services.os, "cpu_count", lambda: 8)
    assert services.check_ray(planned) == []
