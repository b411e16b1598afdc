"""How many programs one process may run at once: its share of the cores that the job has on this machine."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

SHARERS = "POSTTRAIN_REWARD_WORKERS"  # how many processes of a run grade on one machine; whoever starts them sets it


def core_share(environ: Mapping[str, str] | None = None) -> int:
    """The cores of this machine over the processes that grade on it, at least one."""
    environ = os.environ if environ is None else environ
    sharers = environ.get(SHARERS, "")
    return max(1, allotted_cores(environ) // max(1, int(sharers) if sharers.isdecimal() else 1))


def allotted_cores(environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> int:
    """The cores that this process may use: by its CPU set, by the quota of its control groups, and by Slurm."""
    environ = os.environ if environ is None else environ
    given = environ.get("SLURM_CPUS_ON_NODE", "")
    counts = [len(os.sched_getaffinity(0)), *_cgroup_quotas(root), *([int(given)] if given.isdecimal() else [])]
    return max(1, min(counts))


def _cgroup_quotas(root: Path) -> Iterator[int]:
    """Whole cores of each quota on the way to this process's control group (cgroup v2: "400000 100000" is four cores)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    top = root / "sys/fs/cgroup"
    for folder in (top / own, *(top / own).parents):
        if not folder.is_relative_to(top):
            return
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if quota.isdecimal():
            yield int(quota) // int(period)
