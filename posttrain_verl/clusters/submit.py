"""Where a launch runs when it is not here: a Ray cluster, an allocation of Slurm, Kubernetes. One module each."""

from __future__ import annotations

from collections.abc import Callable

from posttrain_verl.clusters import kuberay, ray, slurm
from posttrain_verl.compose import Composed
from posttrain_verl.problem import InputError, Problem


def submit(composed: Composed, say: Callable[[str], None], dry_run: bool = False) -> int:
    """Bring the launch to the cluster that `cluster=` names, and return the exit code.

    With `dry_run` print what would be handed over and hand nothing over.

    Raises:
        InputError: the cluster does not answer, or what was asked for cannot run there; nothing was left behind.
    """
    return {"ray": ray.submit, "slurm": slurm.submit, "kuberay": kuberay.submit}[composed.posttrain.cluster.name](
        composed, say, dry_run
    )


def refuse_dry_run() -> None:
    """A launch on this machine has no script to print."""
    remedy = "python -m posttrain_verl.check composes and checks it, and starts nothing"
    raise InputError("nothing to print", [Problem("--dry-run is for cluster=slurm and cluster=kuberay", remedy)])
