"""Programs of all the processes that grade on a machine share its cores."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from reward_fns.code import cores

WORKER = """
import os, sys, threading, time
os.sched_getaffinity = lambda pid: set(range(8))  # a machine of eight cores
os.environ.pop("SLURM_CPUS_ON_NODE", None)
from reward_fns.code import cores
from reward_fns.code.sandbox import SandboxPool
cores._cgroup_quotas = lambda root: []
pool, running, most = SandboxPool(), [], []
def program():
    with pool.sandbox() as box:
        running.append(0)
        most.append(len(running))
        box.run_script("import time; time.sleep(0.2)", "", limits)
        running.pop()
from reward_fns.code.sandbox import Limits
limits = Limits()
threads = [threading.Thread(target=program) for _ in range(12)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(max(most))
pool.close()
"""


@pytest.mark.parametrize("sharers", [1, 4])
def test_several_processes_run_as_many_programs_as_there_are_cores(sandboxed, sharers):
    def worker(_: int) -> int:
        environ = {**os.environ, cores.SHARERS: str(sharers)}
        return int(subprocess.check_output([sys.executable, "-c", WORKER], env=environ, timeout=120))

    with ThreadPoolExecutor(sharers) as threads:
        at_once = list(threads.map(worker, range(sharers)))
    assert at_once == [8 // sharers] * sharers, "eight in all, and each worker has its part"


@pytest.mark.parametrize(
    ("sharers", "share"), [(None, 6), ("1", 6), ("4", 1), ("3", 2), ("8", 1), ("0", 6), ("many", 6)]
)
def test_the_share_of_a_process(monkeypatch, sharers, share):
    monkeypatch.setattr(cores, "allotted_cores", lambda environ: 6)
    assert cores.core_share({cores.SHARERS: sharers} if sharers else {}) == share


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """`machine(quota, outer)`: the cores of a process whose control group and the one around it have these quotas."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/slice/job\n")
    (tmp_path / "sys/fs/cgroup/slice/job").mkdir(parents=True)

    def allotted(quota: str, outer: str = "max 100000", **environ: str) -> int:
        (tmp_path / "sys/fs/cgroup/slice/job/cpu.max").write_text(f"{quota}\n")
        (tmp_path / "sys/fs/cgroup/slice/cpu.max").write_text(f"{outer}\n")
        return cores.allotted_cores(environ, tmp_path)

    return allotted


def test_the_cores_of_a_job(machine, tmp_path):
    assert machine("max 100000") == 64
    assert machine("450000 100000") == 4, "a container of 4.5 cores"
    assert machine("max 100000", "1600000 100000") == 16
    assert machine("50000 100000") == 1
    assert machine("max 100000", SLURM_CPUS_ON_NODE="12") == 12
    assert cores.allotted_cores({}, tmp_path / "no files here") == 64
