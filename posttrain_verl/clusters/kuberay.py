"""`cluster=kuberay`: a RayJob, for which the KubeRay operator makes a cluster, runs the launch, and removes the cluster.

The fields are those of ray.io/v1 (KubeRay's API reference). `authOptions` needs KubeRay 1.5.1 or newer, which makes a
Secret with a token for each cluster.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from typing import Any

import yaml

from posttrain_verl import preflight
from posttrain_verl.clusters import Cluster, remote_launch
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.settings import RewardSettings
from posttrain_verl.verl.stage import logical_cpus

HOME = "/posttrain"  # the current folder of the launch; its recipes/ holds a recipe that the image may lack


def submit_launch(composed: Composed) -> int:
    """Hand the manifest to kubectl.

    Raises:
        InputError: the recipe has problems, image, claim or hardware are not named, or kubectl is missing or fails.
    """
    run_id = composed.run_dir().name
    text = show_manifests(composed, run_id)
    try:
        done = subprocess.run(["kubectl", "create", "-f", "-"], input=text, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        what = (getattr(error, "stderr", "").strip() or "there is no kubectl on this machine").splitlines()[-1]
        raise InputError("nothing was handed to Kubernetes", [Problem(what, "--dry-run prints the manifest")]) from None
    logs = f"kubectl -n {composed.posttrain.cluster.namespace} logs -f job/{rayjob_name(composed.recipe, run_id)}"
    log.info(f"{done.stdout.strip()}\nfollow it: {logs}")
    return 0


def show_manifests(composed: Composed, run_id: str | None = None) -> str:
    """The manifests of a launch that has no problems, as YAML. Raises InputError as `submit_launch` does."""
    remote_launch.require_named_hardware(composed)
    asked = {"image": "a container image with Python, requirements/gpu.lock and posttrain_verl",
             "claim": "a PersistentVolumeClaim (ReadWriteMany) with the data, where the run folder goes, too"}  # fmt: skip
    missing = [key for key in asked if not composed.posttrain.cluster[key]]
    problems = [Problem(f"posttrain.cluster.{key} is not set", f"name {asked[key]}") for key in missing]
    preflight.raise_if_blocked([*problems, *preflight.find_problems(composed)], composed)
    manifests = build_manifests(composed, run_id or composed.run_dir().name)
    return str(yaml.dump_all(manifests, Dumper=_Plain, sort_keys=False))


class _Plain(yaml.SafeDumper):
    """Writes repeated content again: a reader should not have to look up anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def build_manifests(composed: Composed, run_id: str) -> list[dict[str, Any]]:
    """What the image may lack as a ConfigMap, recipe, options and the user's own reward, and the RayJob that mounts it."""
    metadata = {"name": rayjob_name(composed.recipe, run_id), "namespace": composed.posttrain.cluster.namespace}
    data = _carried_files(composed)
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": {_config_key(path): text for path, text in data.items()},
        },
        {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": _rayjob_spec(composed, run_id)},
    ]


def rayjob_name(recipe: str, run_id: str) -> str:
    """A name that Kubernetes accepts (RFC 1123), from the recipe and the run's id.

    A RayJob's name has at most 47 characters, because KubeRay adds to it for the names of pods.
    """
    text = f"{recipe}-{run_id}".lower()
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")[-47:].strip("-")


def _rayjob_spec(composed: Composed, run_id: str) -> dict[str, Any]:
    cluster, (nodes, devices) = composed.posttrain.cluster, remote_launch.node_devices(composed)
    replaced = {f"posttrain.{key}": remote_launch.hydra_value(cluster[key]) for key in ("runs_dir", "data_dir")}
    replaced |= remote_launch.named_options(composed)
    if reward := remote_launch.reward_file(composed):
        replaced[RewardSettings.key("reward_path")] = remote_launch.hydra_value(f"{HOME}/recipes/{reward.name}")
    launch = remote_launch.launch_command(cluster.python, remote_launch.remote_overrides(composed, run_id, replaced))
    name = rayjob_name(composed.recipe, run_id)
    started = {"num-gpus": str(devices), "num-cpus": str(logical_cpus(devices))}
    cluster_spec: dict[str, Any] = {
        "rayVersion": importlib.metadata.version("ray"),
        "authOptions": {"mode": "token"},
        "headGroupSpec": {"rayStartParams": started, "template": _pod_template(composed, name, "head")},
    }
    if nodes > 1:
        cluster_spec["workerGroupSpecs"] = [
            {"groupName": "workers", "replicas": nodes - 1, "minReplicas": nodes - 1, "maxReplicas": nodes - 1,
             "rayStartParams": started, "template": _pod_template(composed, name, "worker")}
        ]  # fmt: skip
    return {
        "entrypoint": f"cd {HOME} && {launch}",
        "submissionMode": "K8sJobMode",
        "backoffLimit": 0,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": int(cluster.keep_seconds),
        "rayClusterSpec": cluster_spec,
    }


def _pod_template(composed: Composed, name: str, role: str) -> dict[str, Any]:
    cluster = composed.posttrain.cluster
    resources = {"cpu": str(cluster.cpus), "memory": str(cluster.memory)}
    if composed.posttrain.hardware.name != "cpu":
        resources[cluster.gpu_resource] = str(remote_launch.node_devices(composed)[1])
    variables = {"POSTTRAIN_CACHE": f"{cluster.runs_dir}/cache", "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
                 **remote_launch.string_mapping(composed, "env")}  # fmt: skip
    files = _mounted_files(composed)
    container: dict[str, Any] = {
        "name": f"ray-{role}",
        "image": cluster.image,
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "envFrom": [{"secretRef": {"name": secret}} for secret in cluster.secrets],
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [
            {"name": "shared", "mountPath": cluster["mount"]},
            {"name": "memory", "mountPath": "/dev/shm"},
            *({"name": folder, "mountPath": f"{HOME}/{folder}"} for folder in files),
        ],
    }
    volumes = [
        {"name": "shared", "persistentVolumeClaim": {"claimName": cluster.claim}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": str(cluster.shared_memory)}},
        *({"name": folder, "configMap": {"name": name, "items": items}} for folder, items in files.items()),
    ]
    spec: dict[str, Any] = {"containers": [container], "volumes": volumes}
    if selector := remote_launch.string_mapping(composed, "node_selector"):
        spec["nodeSelector"] = selector
    return {"spec": spec}


def _carried_files(composed: Composed) -> dict[str, str]:
    """The files of the ConfigMap by their paths below HOME: the recipe, what the image may lack of options, and the reward."""
    recipe = composed.files["recipe"]
    files = {f"recipes/{recipe.name}": recipe.read_text(), **remote_launch.own_options(composed)}
    if reward := remote_launch.reward_file(composed):
        files[f"recipes/{reward.name}"] = reward.read_text()
    return files


def _mounted_files(composed: Composed) -> dict[str, list[dict[str, str]]]:
    """The files of the ConfigMap by the folder below HOME in which they are mounted."""
    mounted: dict[str, list[dict[str, str]]] = {}
    for path in _carried_files(composed):
        folder, _, inside = path.partition("/")
        mounted.setdefault(folder, []).append({"key": _config_key(path), "path": inside})
    return mounted


def _config_key(path: str) -> str:
    """The key of a file in a ConfigMap, which takes no slashes."""
    return path.replace("/", ".")


CLUSTER = Cluster(submit_launch, show_manifests)
