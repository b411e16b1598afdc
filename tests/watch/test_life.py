"""Signs of life: what moves, what is busy, and time that does not count."""

import subprocess
import sys
import time

import psutil
import pytest

from posttrain_verl.machine.processes import find_process
from posttrain_verl.watch.liveness import Activity, AwakeClock, Changes, folder_size


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_time_in_which_nobody_could_look_does_not_count():
    """A laptop that slept, a container that was frozen, Ctrl-Z: the run could do nothing either."""
    clock = Clock()
    awake = AwakeClock(longest=10.0, clock=clock)
    clock.now += 4
    assert awake() == 4
    clock.now += 3600
    assert awake() == 14
    clock.now += 2
    assert awake() == 16


def test_progress_is_a_change_and_not_a_size():
    seen = Changes()
    assert seen.last == 0.0
    seen.note("log", 100, 1.0)
    seen.note("log", 100, 2.0)
    assert seen.last == 1.0
    seen.note("log", 10, 3.0)  # rotated
    assert seen.last == 3.0
    seen.note("stage", "update", 5.0)
    assert seen.describe_ages(9.0) == "log 6 s ago, stage 4 s ago"


def test_files_that_grow_without_a_change_of_their_times(tmp_path):
    assert folder_size(tmp_path / "missing") == (0, 0)
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "shard").write_bytes(b"0" * 10)
    assert folder_size(tmp_path) == (1, 10)
    (tmp_path / "step" / "shard").write_bytes(b"0" * 20)
    assert folder_size(tmp_path) == (1, 20)


SLEEPS = "import time; time.sleep(600)"
SPINS = "while True: pass"
READS = "import time\nwhile True: open('/dev/zero', 'rb').read(1 << 20); time.sleep(0.2)"


def activity_of(program, name="ray::WorkerDict", gpus=(), polls=False, until=lambda child: time.sleep(1.0)):
    """What is seen of a process that runs the program, in one window of 10 s, which ends when `until` returns."""
    clock = Clock()
    activity = Activity(lambda: list(gpus), clock)
    with subprocess.Popen(
        [sys.executable, "-S", "-c", f"print(flush=True)\n{program}"], stdout=subprocess.PIPE
    ) as child:
        child.stdout.read(1)  # its start is over
        members, names = {child.pid: find_process(child.pid)}, {child.pid: name}
        activity.look(members, names, 1.0, child.pid if polls else None)
        until(psutil.Process(child.pid))
        clock.now += 10.0
        activity.look(members, names, 2.0, child.pid if polls else None)
        child.kill()
    return activity


def has_computed(child):
    """For a tenth of the window, however long that takes on a busy machine."""
    while sum(child.cpu_times()[:2]) < 1.0:
        time.sleep(0.05)


def has_read(child):
    while child.io_counters().read_chars < 2_000_000:
        time.sleep(0.05)


@pytest.mark.parametrize(("program", "until"), [(SPINS, has_computed), (READS, has_read)])
def test_a_process_that_computes_or_reads_is_busy(program, until):
    activity = activity_of(program, until=until)
    assert activity.last == 2.0
    assert activity.seen.startswith("ray::WorkerDict ")


@pytest.mark.parametrize(
    ("program", "options"),
    [
        (SLEEPS, {}),
        (SPINS, {"name": "raylet"}),  # Ray's own are busy in a run that hangs, too
        (SPINS, {"polls": True}),  # and so is the trainer that asks whether rollouts are done
        (SLEEPS, {"gpus": [0, 0]}),
    ],
)
def test_what_waits_is_not_busy(program, options):
    activity = activity_of(program, **options)
    assert activity.last == 0.0
    assert activity.seen.startswith("at most 0.00 cores, 0 kB/s in each of ")
    assert activity.seen.endswith("GPUs idle") == ("gpus" in options)


def test_a_gpu_that_works_is_a_sign_of_life():
    assert activity_of(SLEEPS, gpus=[0, 97]).last == 2.0


def test_a_process_that_is_new_is_a_sign_of_life():
    """Compilers come and go too fast to be measured."""
    clock = Clock()
    activity = Activity(list, clock)
    with subprocess.Popen(["sleep", "60"]) as first, subprocess.Popen(["sleep", "60"]) as second:
        activity.look({first.pid: find_process(first.pid)}, {}, 1.0)
        clock.now += 10
        activity.look({one.pid: find_process(one.pid) for one in (first, second)}, {}, 2.0)
        first.kill(), second.kill()
    assert activity.last == 2.0 and activity.seen == "1 new processes"


def test_a_window_has_its_length():
    clock = Clock()
    activity = Activity(lambda: [50], clock)
    with subprocess.Popen(["sleep", "60"]) as child:
        members = {child.pid: find_process(child.pid)}
        for now in (0.0, 2.0, 9.0):
            clock.now = 1000.0 + now
            activity.look(members, {}, now)
        assert activity.last == 0.0
        clock.now = 1010.0
        activity.look(members, {}, 10.0)
        assert activity.last == 10.0
        child.kill()
