"""`cluster=kuberay`: a RayJob, for which the KubeRay operator makes a cluster, runs the launch, and removes the cluster.

The fields are those of ray.io/v1 (KubeRay's API reference); `authOptions` needs KubeRay 1.5.1 or newer, which makes a
Secret with a token for each cluster.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from collections.abc import Callable
from typing import Any

import yaml

from posttrain_verl import overrides, preflight
from posttrain_verl.clusters import words
from posttrain_verl.compose import Composed
from posttrain_verl.problem import InputError, Problem
from posttrain_verl.verl.placement import logical_cpus

HOME = "/posttrain"  # the current folder of the launch; a recipe that the image may not have lies in its recipes/
LONGEST_NAME = 47  # of a RayJob: KubeRay adds to it for the names of pods


def submit(composed: Composed, say: Callable[[str], None], dry_run: bool = False) -> int:
    """Hand the manifest to kubectl; with `dry_run` print it only.

    Raises:
        InputError: the recipe has problems, image, claim or hardware are not named, or kubectl is missing or fails.
    """
    words.require_named_hardware(composed)
    preflight.require([*_missing(composed), *preflight.check(composed)], composed)
    run_id = composed.run_dir().name
    text = yaml.dump_all(manifests(composed, run_id), Dumper=_Plain, sort_keys=False)
    if dry_run:
        say(text.rstrip())
        return 0
    try:
        done = subprocess.run(["kubectl", "create", "-f", "-"], input=text, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        what = (getattr(error, "stderr", "").strip() or "there is no kubectl on this machine").splitlines()[-1]
        raise InputError("nothing was handed to Kubernetes", [Problem(what, "--dry-run prints the manifest")]) from None
    namespace = composed.posttrain.cluster.namespace
    say(f"{done.stdout.strip()}\nfollow it: kubectl -n {namespace} logs -f job/{name_of(composed.recipe, run_id)}")
    return 0


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice: a reader should not have to look up anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def manifests(composed: Composed, run_id: str) -> list[dict[str, Any]]:
    """The recipe as a ConfigMap, and the RayJob that mounts it."""
    metadata = {"name": name_of(composed.recipe, run_id), "namespace": composed.posttrain.cluster.namespace}
    recipe = next(
        file for folder in overrides.recipe_folders() if (file := folder / f"{composed.recipe}.yaml").is_file()
    )
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {recipe.name: recipe.read_text()},
    }
    return [
        config_map,
        {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": _job(composed, run_id)},
    ]


def name_of(recipe: str, run_id: str) -> str:
    """A name that Kubernetes takes (RFC 1123), from the recipe and the run's id."""
    text = f"{recipe}-{run_id}".lower()
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")[-LONGEST_NAME:].strip("-")


def _missing(composed: Composed) -> list[Problem]:
    cluster = composed.posttrain.cluster
    asked = {"image": "a container image with Python, requirements/gpu.lock and posttrain_verl",
             "claim": "a PersistentVolumeClaim (ReadWriteMany) with the data, where the run folder goes, too"}  # fmt: skip
    return [
        Problem(f"posttrain.cluster.{key} is not set", f"name {what}")
        for key, what in asked.items()
        if not cluster[key]
    ]


def _job(composed: Composed, run_id: str) -> dict[str, Any]:
    cluster, (nodes, devices) = composed.posttrain.cluster, words.devices(composed)
    replaced = {
        "posttrain.runs_dir": words.value(cluster.runs_dir),
        "posttrain.data_dir": words.value(cluster.data_dir),
    }
    launch = words.command(cluster.python, words.there(composed, run_id, replaced))
    name = name_of(composed.recipe, run_id)
    started = {"num-gpus": str(devices), "num-cpus": str(logical_cpus(devices))}
    cluster_spec: dict[str, Any] = {
        "rayVersion": importlib.metadata.version("ray"),
        "authOptions": {"mode": "token"},
        "headGroupSpec": {"rayStartParams": started, "template": _pod(composed, name, "head")},
    }
    if nodes > 1:
        cluster_spec["workerGroupSpecs"] = [
            {"groupName": "workers", "replicas": nodes - 1, "minReplicas": nodes - 1, "maxReplicas": nodes - 1,
             "rayStartParams": started, "template": _pod(composed, name, "worker")}
        ]  # fmt: skip
    return {
        "entrypoint": f"cd {HOME} && {launch}",
        "submissionMode": "K8sJobMode",
        "backoffLimit": 0,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": int(cluster.keep_seconds),
        "rayClusterSpec": cluster_spec,
    }


def _pod(composed: Composed, name: str, role: str) -> dict[str, Any]:
    cluster = composed.posttrain.cluster
    resources = {"cpu": str(cluster.cpus), "memory": str(cluster.memory)}
    if composed.posttrain.hardware.name != "cpu":
        resources[cluster.gpu_resource] = str(words.devices(composed)[1])
    container: dict[str, Any] = {
        "name": f"ray-{role}",
        "image": cluster.image,
        "env": [{"name": name, "value": value} for name, value in _variables(composed).items()],
        "envFrom": [{"secretRef": {"name": secret}} for secret in cluster.secrets],
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [
            {"name": "shared", "mountPath": cluster["mount"]},
            {"name": "memory", "mountPath": "/dev/shm"},
            {"name": "recipe", "mountPath": f"{HOME}/recipes"},
        ],
    }
    volumes = [
        {"name": "shared", "persistentVolumeClaim": {"claimName": cluster.claim}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": str(cluster.shared_memory)}},
        {"name": "recipe", "configMap": {"name": name}},
    ]
    spec: dict[str, Any] = {"containers": [container], "volumes": volumes}
    if selector := words.setting(composed, "node_selector"):
        spec["nodeSelector"] = selector
    return {"spec": spec}


def _variables(composed: Composed) -> dict[str, str]:
    ours = {"POSTTRAIN_CACHE": f"{composed.posttrain.cluster.runs_dir}/cache", "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"}
    return ours | words.setting(composed, "env")
