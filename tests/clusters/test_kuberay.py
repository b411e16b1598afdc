"""The manifest of a RayJob: its form, and that it says what the launch says."""

import copy
import io
import os
from contextlib import redirect_stdout
from pathlib import Path

import jsonschema
import pytest
import yaml

from posttrain_verl import clusters
from posttrain_verl.clusters import kuberay
from posttrain_verl.terminal.problem import InputError

WORDS = ["cluster=kuberay", "posttrain.cluster.image=registry/posttrain:1", "posttrain.cluster.claim=shared"]
SCHEMA = yaml.safe_load(Path(__file__).with_name("rayjob.schema.yaml").read_text())


def printed(composed, *words: str) -> tuple[dict, dict]:
    """The two manifests as `--dry-run` prints them."""
    with redirect_stdout(io.StringIO()) as said:
        assert clusters.submit_launch(composed(*WORDS, *words), dry_run=True) == 0
    config_map, job = yaml.safe_load_all(said.getvalue())
    return config_map, job


@pytest.mark.parametrize(
    "words",
    [
        ["hardware=cpu"],
        ["hardware=8xh100", "trainer.nnodes=4"],
        ["hardware=1x80gb", "posttrain.cluster.secrets=[wandb]", "+posttrain.cluster.env.A=1",
         "+posttrain.cluster.node_selector.pool=h100"],
    ],
)  # fmt: skip
def test_it_has_the_form_of_a_rayjob(composed, words):
    jsonschema.validate(printed(composed, *words)[1], SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["metadata", "name"], "Upper_case"),
        (["spec", "entryPoint"], "misspelt"),
        (["spec", "rayClusterSpec", "authOptions"], {"mode": "disabled"}),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "replicas"], "1"),
        (["spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-gpus"], 8),
    ],
)
def test_the_schema_finds_what_is_wrong(composed, path, value):
    job = copy.deepcopy(printed(composed, "hardware=8xh100", "trainer.nnodes=2")[1])
    node = job
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, SCHEMA)


def test_it_runs_the_launch_on_as_many_nodes_with_a_token(composed):
    config_map, job = printed(composed, "hardware=8xh100", "trainer.nnodes=4", "optim.lr=3e-6")
    spec = job["spec"]["rayClusterSpec"]
    assert job["spec"]["entrypoint"] == (
        "cd /posttrain && python -m posttrain_verl.launch recipe=math_sft base_model=tiny mix=embedded hardware=8xh100 "
        "trainer.nnodes=4 optim.lr=3e-6 posttrain.watch.retries=1 posttrain.run_id=it posttrain.runs_dir=/shared/runs "
        "posttrain.data_dir=/shared/data"
    )
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["workerGroupSpecs"][0]["replicas"] == 3
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert "defaults:" in config_map["data"]["recipes.math_sft.yaml"]
    assert config_map["metadata"] == job["metadata"] == {"name": "math-sft-it", "namespace": "default"}


def test_image_and_claim_must_be_named(composed):
    with pytest.raises(InputError) as stopped:
        clusters.submit_launch(composed("cluster=kuberay", "hardware=8xh100"), dry_run=True)
    assert [problem.what for problem in stopped.value.problems[:2]] == [
        "posttrain.cluster.image is not set", "posttrain.cluster.claim is not set"]  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "run_id", "name"),
    [("math_grpo", "20261125-1", "math-grpo-20261125-1"), ("a", "X_y.", "a-x-y"), ("r" * 60, "1", "r" * 45 + "-1")],
)
def test_names_that_kubernetes_takes(recipe, run_id, name):
    assert kuberay.rayjob_name(recipe, run_id) == name


def test_without_kubectl(composed, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"there is no kubectl on this machine"):
        kuberay.submit_launch(composed(*WORDS, "hardware=cpu"))


def test_kubectl_gets_both_manifests(composed, tmp_path, monkeypatch, told):
    program = tmp_path / "bin/kubectl"
    program.parent.mkdir()
    program.write_text('#!/bin/bash\ncat > "$0.seen"; echo "$@" > "$0.words"; echo rayjob.ray.io/math-sft-it created\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    assert kuberay.submit_launch(composed(*WORDS, "hardware=cpu")) == 0
    assert told[0].startswith("rayjob.ray.io/math-sft-it created")
    kinds = [manifest["kind"] for manifest in yaml.safe_load_all(Path(f"{program}.seen").read_text())]
    assert kinds == ["ConfigMap", "RayJob"]
    assert Path(f"{program}.words").read_text() == "create -f -\n"
