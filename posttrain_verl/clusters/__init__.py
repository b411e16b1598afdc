"""Where a launch runs: on this machine, as a job of a Ray cluster, in an allocation of Slurm, on Kubernetes.

A kind of cluster is one module here that defines `CLUSTER`, and one file in conf/cluster whose `name` is that of the module.
No other file names it. A module is imported when its cluster is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, cast

from omegaconf import DictConfig, OmegaConf

from posttrain_verl import paths
from posttrain_verl.preflight import services
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.terminal.problem import InputError, Problem

if TYPE_CHECKING:
    from posttrain_verl.run.folder import Status
    from posttrain_verl.run.resume import ResumeRequest
    from posttrain_verl.verl.composed import Composed


LOST_SECONDS = 60.0  # a cluster that is silent for so long is given up; the job may continue


@dataclass(frozen=True)
class Jobs:
    """What verbs ask a cluster about a run that is a job there. The run folder's status.json names the job.

    `resume` follows the job while it runs, else submits another, and returns the exit code. `refresh_status` asks the cluster
    for the run's status. `stop` ends the job and returns its state. `read_log` yields the lines that the job has printed, and
    with true also those to come.
    """

    resume: Callable[[RunFolder, ResumeRequest], int]
    refresh_status: Callable[[RunFolder], Status]
    stop: Callable[[RunFolder], str]
    read_log: Callable[[RunFolder, bool], Iterable[str]]


@dataclass(frozen=True)
class Cluster:
    """One kind of cluster.

    `submit` checks a launch, hands it over, and returns the exit code. `show` returns what would be handed over, for `--dry-run`.
    `count_at_once` says how many members of a sweep fit beside each other; without it one runs at a time. `start` launches from
    a program that has other work to do, and returns the run's folder when the run has ended, or with true when it trains.
    """

    submit: Callable[[Composed], int]
    show: Callable[[Composed], str] | None = None
    count_at_once: Callable[[Composed], int] | None = None
    jobs: Jobs | None = None
    start: Callable[[Composed, bool], RunFolder] | None = None


def cluster_named(name: str) -> Cluster | None:
    """The cluster whose module has this name; None where there is none."""
    module, found = f"{__name__}.{name}", None
    try:
        found = getattr(import_module(module), "CLUSTER", None)
    except ModuleNotFoundError as error:
        if error.name != module:  # of something that the module itself imports
            raise
    return found if isinstance(found, Cluster) else None


def submit_launch(composed: Composed, dry_run: bool = False) -> int:
    """Launch where `cluster=` says, and return the exit code. With `dry_run` print what a cluster would get, and submit nothing.

    Raises:
        InputError: the launch cannot run there, or there is nothing to print. Nothing is left behind.
    """
    cluster = _cluster_of(composed)
    if not dry_run:
        return cluster.submit(composed)
    if cluster.show is None:
        shown = ", ".join(f"cluster={each}" for each in paths.names("cluster") if _prints(each))
        remedy = f"--dry-run is for {shown}; python -m posttrain_verl.check composes and checks, and starts nothing"
        raise InputError(
            "nothing to print",
            [Problem(f"cluster={composed.posttrain.cluster.name} has no script: it starts at once", remedy)],
        )
    print(cluster.show(composed).rstrip())
    return 0


def start_launch(composed: Composed, detached: bool) -> RunFolder:
    """Launch where `cluster=` says, from a program that has other work to do, and return the run's folder.

    On this machine the run has ended then, unless it is `detached`. Elsewhere it was submitted.

    Raises:
        InputError: the launch cannot run there, or it waits in a queue that nobody here can ask about, and is not `detached`.
    """
    cluster = _cluster_of(composed)
    if cluster.start:
        return cluster.start(composed, detached)
    if cluster.jobs is None and not detached:
        what = f"cluster={composed.posttrain.cluster.name} queues the launch, and cannot be asked when it has ended"
        raise InputError("nothing was launched", [Problem(what, "launch with detach=True")])
    folder = composed.run_dir()
    named = {"run_id": folder.name, "detach": True}
    posttrain = cast(DictConfig, OmegaConf.merge(composed.posttrain, named))
    found = RunFolder(folder)
    if cluster.jobs is None:  # before it is submitted, since it may start at once
        found.note_queued(f"cluster={composed.posttrain.cluster.name}")
    try:
        cluster.submit(replace(composed, posttrain=posttrain))
    except BaseException:
        found.queue_note.unlink(missing_ok=True)
        raise
    return found


def _prints(option: str) -> bool:
    """Whether a file of conf/cluster names a cluster that has something to print; one of the user's own may share a module."""
    import yaml

    file = paths.find_option("cluster", option)
    named = cluster_named(str(yaml.safe_load(file.read_text(encoding="utf-8")).get("name"))) if file else None
    return named is not None and named.show is not None


def _cluster_of(composed: Composed) -> Cluster:
    cluster = cluster_named(str(composed.posttrain.cluster.get("name")))
    if cluster is None:
        raise InputError("nothing to launch", [services.unknown_cluster(composed)])
    return cluster


def jobs_of(status: Status) -> Jobs | None:
    """How to ask about the job that a status names; None for a run of this machine."""
    if status.job is None:
        return None
    named = cluster_named(status.job.get("cluster", "ray"))  # runs from before name none, and are Ray's
    assert named is not None and named.jobs is not None, "only a cluster with jobs writes one into a status"
    return named.jobs
