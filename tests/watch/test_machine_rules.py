"""The rules on the machine, with clocks and readings of the test's own."""

import os
import signal
import subprocess
import time

from omegaconf import OmegaConf

from posttrain_verl import paths
from posttrain_verl.run.processes import process
from posttrain_verl.watch import machine
from posttrain_verl.watch.machine import Death, Situation

ENGINE = Death("pid 7", "VLLM::EngineCore (pid 7) died")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_death_counts_after_its_grace():
    clock = Clock()
    rule = machine.Dead(4.0, clock)
    assert rule.see(Situation(deaths=(ENGINE,))) is None
    clock.now = 3.9
    assert rule.see(Situation()) is None
    clock.now = 4.0
    assert rule.see(Situation()).saw == ENGINE.saw


def test_a_death_at_the_end_of_the_run_is_none():
    rule = machine.Dead(0.0)
    assert rule.see(Situation(deaths=(ENGINE,), stage=machine.ENDING)) is None


def test_a_stopped_process_is_named_until_it_goes_on():
    clock = Clock()
    rule = machine.Stopped(10.0, clock)
    with subprocess.Popen(["sleep", "600"]) as child:
        situation = Situation(members={child.pid: process(child.pid)}, names={child.pid: "ray::WorkerDict"})
        os.kill(child.pid, signal.SIGSTOP)
        until = time.monotonic() + 5
        while not process(child.pid).is_stopped and time.monotonic() < until:
            time.sleep(0.01)
        assert rule.see(situation) is None
        clock.now = 10.0
        assert rule.see(situation).saw == f"ray::WorkerDict (pid {child.pid}) has been stopped for 10 s"
        assert rule.see(situation).pid == child.pid
        os.kill(child.pid, signal.SIGCONT)
        while process(child.pid).is_stopped and time.monotonic() < until:
            time.sleep(0.01)
        assert rule.see(situation) is None
        child.kill()


def test_silence_has_a_limit_of_its_own_while_starting_and_for_long_steps():
    rule = machine.Silence(600.0, 1800.0, 3.0)
    assert rule.see(Situation(silent=1799.0)) is None
    assert "1800 s" in rule.see(Situation(silent=1800.0)).saw
    assert rule.see(Situation(silent=599.0, step=1)) is None
    assert "limit 600 s" in rule.see(Situation(silent=600.0, step=1, trainer=9)).saw
    assert rule.see(Situation(silent=899.0, step=1, longest_step=300.0)) is None
    assert rule.see(Situation(silent=900.0, step=1, longest_step=300.0)) is not None


def test_idle_gpus_count_when_a_step_is_due_and_all_are_idle():
    clock, use = Clock(), [0, 0]
    rule = machine.GpuIdle(300.0, lambda: use, clock)
    assert rule.see(Situation(step=1)) is None
    clock.now = 299.0
    assert rule.see(Situation(step=1)) is None
    clock.now = 300.0
    assert rule.see(Situation(step=1)).saw == "2 GPUs at 0 % for 300 s"
    use[1] = 3
    assert rule.see(Situation(step=1)) is None
    use[1] = 0
    assert rule.see(Situation(step=1)) is None, "it counts anew"


def test_without_gpus_or_while_starting_none_is_idle():
    assert machine.GpuIdle(0.0, list).see(Situation(step=1)) is None
    assert machine.GpuIdle(0.0, lambda: [0]).see(Situation()) is None


def test_memory_that_runs_out_names_who_holds_it():
    rule = machine.HostMemory(0.03, lambda: 0.02)
    situation = Situation(members={os.getpid(): process(os.getpid())}, names={os.getpid(): "ray::RewardLoopWorker"})
    assert "2.0% of the host's memory is left; ray::RewardLoopWorker (pid" in rule.see(situation).saw
    assert machine.HostMemory(0.03, lambda: 0.5).see(situation) is None
    assert 0 < machine.memory_left() < 1


def test_a_folder_that_runs_full(tmp_path):
    missing = tmp_path / "run" / "checkpoints"
    assert machine.Disk(below_gib=1e9).see(Situation(checkpoints=missing)).saw.endswith(f"GiB are left in {tmp_path}")
    assert machine.Disk(below_gib=0.0).see(Situation(checkpoints=missing)) is None
    assert "are left in" in machine.SharedMemory(1.1, tmp_path).see(Situation()).saw
    assert machine.SharedMemory(0.0, tmp_path).see(Situation()) is None


def test_every_rule_of_the_file_is_known_and_can_be_off():
    file = OmegaConf.to_container(OmegaConf.load(paths.conf_dir() / "watch" / "default.yaml"))
    from posttrain_verl.watch import metrics

    named = set(file) - {"name", "retries"}
    assert named == set(machine.rules(file)) | set(metrics.rules(file))
    off = {name: value | {"do": "off"} if isinstance(value, dict) else value for name, value in file.items()}
    assert not machine.rules(off)
    assert not metrics.rules(off)
