"""The rules on the machine, with times and readings of the test's own. For each alarm there is a healthy run that looks alike."""

import os
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from posttrain_verl import paths
from posttrain_verl.machine.processes import find_process
from posttrain_verl.verl.stage import stage_named
from posttrain_verl.watch import machine_rules
from posttrain_verl.watch.machine_rules import GIB, Death, Memory, Situation

RUN = stage_named("rl").settings(OmegaConf.create({}))
ENGINE = Death("pid 7", "VLLM::EngineCore (pid 7) died: it was ended by SIGKILL")
SILENCE = machine_rules.Silence(seconds=600.0, busy=3600.0, starting=1800.0, longest_steps=3.0)


def test_a_death_counts_after_its_grace():
    rule = machine_rules.Dead(4.0)
    assert rule.find_fault(Situation(now=10.0, deaths=(ENGINE,))) is None
    assert rule.find_fault(Situation(now=13.9, deaths=(ENGINE,))) is None
    assert rule.find_fault(Situation(now=14.0, deaths=(ENGINE,))).saw == ENGINE.saw


def test_a_death_that_turns_out_to_be_none_is_forgotten():
    """The exit status of a process may be known a moment later."""
    rule = machine_rules.Dead(4.0)
    assert rule.find_fault(Situation(now=0.0, deaths=(ENGINE,))) is None
    assert rule.find_fault(Situation(now=2.0)) is None
    assert rule.find_fault(Situation(now=9.0, deaths=(ENGINE,))) is None, "it counts anew"


def test_a_death_at_the_end_of_the_run_is_none():
    rule = machine_rules.Dead(0.0)
    assert rule.find_fault(Situation(deaths=(ENGINE,), activity=machine_rules.ENDING)) is None


def test_a_stopped_process_is_named_until_it_goes_on():
    rule = machine_rules.Stopped(10.0)
    with subprocess.Popen(["sleep", "600"]) as child:
        now = {"members": {child.pid: find_process(child.pid)}, "names": {child.pid: "ray::WorkerDict"}}
        os.kill(child.pid, signal.SIGSTOP)
        until = time.monotonic() + 5
        while not find_process(child.pid).is_stopped and time.monotonic() < until:
            time.sleep(0.01)
        assert rule.find_fault(Situation(now=5.0, **now)) is None
        assert (
            rule.find_fault(Situation(now=15.0, **now)).saw
            == f"ray::WorkerDict (pid {child.pid}) has been stopped for 10 s"
        )
        assert rule.find_fault(Situation(now=15.0, **now)).pid == child.pid
        os.kill(child.pid, signal.SIGCONT)
        while find_process(child.pid).is_stopped and time.monotonic() < until:
            time.sleep(0.01)
        assert rule.find_fault(Situation(now=16.0, **now)) is None
        child.kill()


def at(idle, silent=None, **more):
    """What is seen after `idle` seconds without any sign of life, and `silent` without progress."""
    return SILENCE.find_fault(
        Situation(idle=idle, silent=idle if silent is None else silent, signs="log 9 s ago", **more)
    )


def test_without_a_sign_of_life_a_run_is_ended_and_the_signs_are_named():
    assert at(599.0, step=1) is None
    assert at(600.0, step=1, trainer=9).saw == "no sign of life for 600 s (limit 600 s); looked for: log 9 s ago"


def test_a_step_may_be_longer_than_the_limit_where_others_were():
    assert at(899.0, step=1, longest_step=300.0) is None
    assert at(900.0, step=1, longest_step=300.0) is not None
    assert at(0.0, silent=5999.0, step=1, longest_step=2000.0) is None
    assert "limit 6000 s" in at(0.0, silent=6000.0, step=1, longest_step=2000.0).saw


def test_a_start_has_a_limit_of_its_own():
    assert at(1799.0) is None
    assert "1800 s" in at(1800.0).saw
    assert at(0.0, silent=1900.0) is None, "it is busy"


def test_what_is_busy_without_progress_has_longer():
    """A step ten times as long as the longest before, and a thread that spins for ever."""
    assert at(0.0, silent=3599.0, step=1, longest_step=60.0) is None
    seen = at(0.0, silent=3600.0, step=1, longest_step=60.0)
    assert seen.saw.startswith("no progress for 3600 s (limit 3600 s)") and "spins" in seen.why


def test_a_longer_limit_of_the_user_holds_for_what_is_busy_too():
    patient = machine_rules.Silence(seconds=7200.0, busy=3600.0, starting=1800.0, longest_steps=3.0)
    assert patient.find_fault(Situation(idle=0.0, silent=7000.0, step=1)) is None


def test_processes_on_other_machines_may_be_busy():
    assert at(3599.0, step=1, unseen=8) is None
    assert "8 processes on other machines" in at(3600.0, step=1, unseen=8).why


def test_idle_gpus_count_when_a_step_is_due_and_all_are_idle():
    use = [0, 0]
    rule = machine_rules.GpuIdle(300.0, lambda: use)
    assert rule.find_fault(Situation(now=0.0, step=1)) is None
    assert rule.find_fault(Situation(now=299.0, step=1)) is None
    assert rule.find_fault(Situation(now=300.0, step=1)).saw == "2 GPUs at 0 % for 300 s"
    use[1] = 3
    assert rule.find_fault(Situation(now=301.0, step=1)) is None
    use[1] = 0
    assert rule.find_fault(Situation(now=302.0, step=1)) is None, "it counts anew"


def test_without_gpus_or_while_starting_none_is_idle():
    assert machine_rules.GpuIdle(0.0, list).find_fault(Situation(step=1)) is None
    assert machine_rules.GpuIdle(0.0, lambda: [0]).find_fault(Situation()) is None


def host_memory(*left, total=24):
    """The rule, and what it reads at each look, in GiB."""
    readings = iter([[Memory(one * GIB, total * GIB)] for one in left])
    return machine_rules.HostMemory(below=0.03, below_gib=2.0, seconds=4.0, left=lambda: next(readings))


def test_memory_that_runs_out_names_who_holds_it():
    rule = host_memory(0.5, 0.5, 0.5)
    situation = {"members": {os.getpid(): find_process(os.getpid())}, "names": {os.getpid(): "ray::RewardLoopWorker"}}
    assert rule.find_fault(Situation(now=0.0, **situation)) is None
    assert rule.find_fault(Situation(now=3.9, **situation)) is None
    assert (
        "0.50 of 24.0 GiB of memory are left; ray::RewardLoopWorker (pid"
        in rule.find_fault(Situation(now=4.0, **situation)).saw
    )


@pytest.mark.parametrize(
    ("left", "total"),
    [
        ([0.8, 0.8, 0.8], 24),  # 3 % and more
        ([40, 40, 40], 2000),  # 2 % of a large machine are plenty
        ([0.5, 5, 0.5], 24),  # a moment
    ],
)
def test_memory_that_suffices(left, total):
    rule = host_memory(*left, total=total)
    assert [rule.find_fault(Situation(now=4.0 * look)) for look in range(3)] == [None] * 3


def test_what_is_left_of_this_machine():
    for one in machine_rules.memory_left():
        assert 0 < one.left <= one.total * 2 and one.total > 0


V1 = {"memory.limit_in_bytes": "1000", "memory.usage_in_bytes": "990"}
V2 = {"memory.max": "1000", "memory.current": "990"}
NO_SWAP = {"memory.swap.max": "0", "memory.swap.current": "0"}


@pytest.mark.parametrize(
    ("files", "stat", "left"),
    [
        # Pages of files that were read are not in use.
        (V2 | NO_SWAP, "anon 290\nactive_file 500\ninactive_file 200", 710),
        (V2 | NO_SWAP, "anon 590\nslab_reclaimable 400", 410),
        (V2 | NO_SWAP, "anon 990", 10),
        (V2 | {"memory.swap.max": "max", "memory.swap.current": "9"}, "anon 990", 60),  # 50 of swap are free
        (V2 | {"memory.swap.max": "30", "memory.swap.current": "10"}, "anon 990", 30),
        (V2 | {"memory.max": "max"}, "anon 990", None),
        ({}, "anon 990", None),  # the root of version 2 has no limit
        (V1, "cache 0\ntotal_active_file 0\ntotal_inactive_file 0", 60),
        (
            V1 | {"memory.memsw.limit_in_bytes": "1000", "memory.memsw.usage_in_bytes": "1000"},
            "total_active_file 7",
            17,
        ),
    ],
)
def test_what_is_left_in_a_container(tmp_path, monkeypatch, files, stat, left):
    for name, text in files.items() | {("memory.stat", stat)}:
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine_rules, "CGROUP", tmp_path)
    monkeypatch.setattr(machine_rules, "PROC", tmp_path / "proc")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/")
    monkeypatch.setattr(machine_rules.psutil, "swap_memory", lambda: SimpleNamespace(free=50))
    assert [one.left for one in machine_rules.memory_left()[1:]] == ([] if left is None else [left])


def test_a_folder_that_runs_full(tmp_path):
    missing = tmp_path / "run" / "checkpoints"
    assert (
        machine_rules.Disk(below_gib=1e9)
        .find_fault(Situation(checkpoints=missing))
        .saw.endswith(f"GiB are left in {tmp_path}")
    )
    assert machine_rules.Disk(below_gib=0.0).find_fault(Situation(checkpoints=missing)) is None
    assert "are left in" in machine_rules.SharedMemory(1.1, tmp_path).find_fault(Situation()).saw
    assert machine_rules.SharedMemory(0.0, tmp_path).find_fault(Situation()) is None


def test_every_rule_of_the_file_is_known_and_can_be_off():
    file = OmegaConf.to_container(OmegaConf.load(paths.conf_dir() / "watch" / "default.yaml"))
    from posttrain_verl.watch import metric_rules

    named = set(file) - {"name", "retries"}
    assert named == set(machine_rules.make_machine_rules(file)) | set(metric_rules.make_metric_rules(file, RUN))
    off = {name: value | {"do": "off"} if isinstance(value, dict) else value for name, value in file.items()}
    assert not machine_rules.make_machine_rules(off)
    assert not metric_rules.make_metric_rules(off, RUN)
