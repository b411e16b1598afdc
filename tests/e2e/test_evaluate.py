"""Evaluation with real vLLM engines: side by side in processes of this machine, and as tasks of a Ray cluster."""

import json
import os
import secrets
import subprocess
import sys
import tempfile

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

# Joins what the evaluation is to find: a cluster with two logical devices, and runs the verb against it.
ON_RAY = """
import os, ray, subprocess, sys
context = ray.init(num_gpus=2, num_cpus=8, include_dashboard=False, _node_ip_address="127.0.0.1")
variables = {**os.environ, "RAY_ADDRESS": context.address_info["gcs_address"]}
sys.exit(subprocess.run([sys.executable, "-m", "posttrain_verl.evaluate", *sys.argv[1:]], env=variables).returncode)
"""


@pytest.fixture
def evaluate(shared, tmp_path):
    def run(name, *words, start=("-m", "posttrain_verl.evaluate"), variables=None):
        out = tmp_path / f"{name}.json"
        command = [sys.executable, *start, "base_model=tiny", "eval=embedded", "rows=12", "max_tokens=10", "seed=3",
                   f"posttrain.data_dir={shared['POSTTRAIN_TEST_DATA']}", f"posttrain.out={out}", *words]  # fmt: skip
        environ = {**os.environ, **shared, **(variables or {})}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=500, check=False)
        log = out.with_suffix(".log")
        assert done.returncode == 0, done.stderr[-3000:] + (log.read_text()[-3000:] if log.exists() else "")
        return json.loads(out.read_text())["items"]

    return run


def texts(items):
    return {(item["id"], item["sample"]): item["answer"] for item in items}


def test_two_replicas_answer_as_one(evaluate, tmp_path):
    """Each answer has a seed of its own: how many engines there are changes none (but for a rounding in a batch)."""
    sampled = ("k=4", "temperature=1")
    alone, together = evaluate("one", *sampled), evaluate("two", *sampled, "replicas=2")
    assert len(alone) == 48 and texts(alone).keys() == texts(together).keys()
    assert len(set(texts(alone).values())) > 24, "samples of a question differ"
    same = sum(texts(alone)[key] == texts(together)[key] for key in texts(alone))
    assert same >= 44
    assert all(item["tokens"] == 10 for item in alone if item["truncated"])
    said = [line for line in (tmp_path / "one.log").read_text().splitlines() if line.startswith("answered: ")]
    assert json.loads(said[-1].removeprefix("answered: "))["tokens"] == sum(item["tokens"] for item in alone)


def test_replicas_run_as_tasks_of_a_ray_cluster(evaluate):
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as short:  # sockets need a short path
        variables = {"RAY_TMPDIR": short, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        items = evaluate("ray", start=("-c", ON_RAY), variables=variables)
    assert len(items) == 12 and any(item["answer"] for item in items)
