"""The supervisor with a driver of the test's own: how it ends is what status.json says, and nothing is left."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from multiprocessing import shared_memory
from pathlib import Path

import psutil
import pytest
from driven import alive

from posttrain_verl.cpu import warm
from posttrain_verl.machine import processes
from posttrain_verl.run import supervise
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.watch.machine_rules import SharedMemory, Situation

GOOD = """
import json, os, sys
with open(os.environ["VERL_FILE_LOGGER_PATH"], "w") as log:
    for step in (1, 2):
        log.write(json.dumps({"step": step, "data": {"train/loss": 0.5}}) + "\\n")
"""
LEAVES_THINGS = """
import os, subprocess, sys, tempfile
from multiprocessing import resource_tracker, shared_memory
import time
segment = shared_memory.SharedMemory(create=True, size=4096)
resource_tracker.unregister(segment._name, "shared_memory")
child = subprocess.Popen(["sleep", "600"], process_group=0)
open(sys.argv[-1] + "/left", "w").write(f"{child.pid} {segment.name} {tempfile.mkdtemp()}")
until = time.monotonic() + 120  # a look takes place every two seconds; on a busy machine later
while segment.name not in open(sys.argv[-1] + "/processes.json").read() and time.monotonic() < until:
    time.sleep(0.1)
os._exit(0)
"""


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "it")


def train(folder, program, tmp_path):
    """`supervisor.train` with `program` for the driver; it gets the run folder as its last argument."""
    file = tmp_path / "driver.py"
    file.write_text(program)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nfor last; do :; done\nexec "{sys.executable}" "{file}" "$last"\n')
    python.chmod(0o755)
    variables = {warm.SWITCH: str(python), "VERL_FILE_LOGGER_PATH": str(folder.metrics)}
    return supervise.train_attempt(folder, variables)


def test_done(folder, tmp_path, told):
    status = train(folder, GOOD, tmp_path)
    assert (status.state, status.last_step) == ("done", 2)
    assert told == ["step 1: loss 0.5", "step 2: loss 0.5"]
    assert folder.read_status() == status


def test_failed_with_the_reason_from_the_log(folder, tmp_path):
    status = train(folder, "raise RuntimeError('no such layer')", tmp_path)
    assert (status.state, status.why) == ("failed", "RuntimeError: no such layer")
    assert folder.read_status() == status


def test_failed_without_a_word(folder, tmp_path):
    status = train(folder, "import os; os._exit(3)", tmp_path)
    assert (status.state, status.why) == ("failed", "VeRL ended without a message: it ended with exit status 3")


def test_a_failed_run_keeps_the_logs_of_ray(folder, tmp_path):
    program = """
import os
session = os.environ["RAY_TMPDIR"] + "/ray/session_1"
os.makedirs(session + "/logs")
open(session + "/logs/raylet.out", "w").write("raylet")
os.symlink(session, os.environ["RAY_TMPDIR"] + "/ray/session_latest")
os._exit(1)
"""
    train(folder, program, tmp_path)
    assert (folder.path / "ray_logs" / "raylet.out").read_text() == "raylet"


def test_interrupted_from_the_keyboard(folder, tmp_path):
    def interrupt():
        while not folder.log.exists() or not folder.log.read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    status = train(folder, "import time; print('up', flush=True); time.sleep(600)", tmp_path)
    thread.join()
    assert status.state == "interrupted"
    assert not psutil.pid_exists(status.pid)


def test_processes_segments_and_temporary_files_are_gone(folder, tmp_path):
    assert train(folder, LEAVES_THINGS, tmp_path).state == "done"
    pid, segment, temporary = (folder.path / "left").read_text().split()
    assert not alive(int(pid))
    assert not (processes.SHARED_MEMORY / segment).exists()
    assert not Path(temporary).exists()


@pytest.mark.parametrize("name", ["long" * 25, "with space"])
def test_folders_with_sockets_are_made_where_their_paths_fit(tmp_path, monkeypatch, name):
    """The path of a socket has at most 107 characters, and Ray puts paths into command lines without quotes."""
    odd = tmp_path / name
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    monkeypatch.setattr(warm.sys, "executable", "/bin/true")  # nothing needs to be imported for this
    named = {}
    with processes.temporary_folder() as folder, warm.started({"VERL_PLATFORM": "cpu"}, tmp_path / "log", named):
        assert folder.parent == Path(named[warm.SWITCH]).parent.parent == Path("/tmp")


@pytest.mark.parametrize(("switch", "starts"), [("0", ["-u"]), (None, ["-c", "-I"])])
def test_with_the_warm_python_switched_off_a_run_starts_its_driver_and_no_zygote(
    prepared, tmp_path, monkeypatch, switch, starts
):
    folder = prepared("")
    python = tmp_path / "interpreter"
    python.write_text(f'#!/bin/sh\necho "$1" >> "{tmp_path}/starts"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.delenv(warm.SWITCH) if switch is None else monkeypatch.setenv(warm.SWITCH, switch)
    assert supervise.supervise_run(folder, print).state == "done"
    assert (tmp_path / "starts").read_text().split() == starts


def test_a_container_without_shared_memory(tmp_path):
    assert processes.Segments(tmp_path / "none").names == set()
    assert SharedMemory(0.5, tmp_path / "none").find_fault(Situation()) is None


def test_segments_of_others_stay():
    segments = processes.Segments()
    segment = shared_memory.SharedMemory(create=True, size=4096)
    try:
        segments.look([os.getppid()])
        assert not segments.names, "none of the run's processes maps it"
        segments.look([os.getpid()], at_once=True)
        assert segments.names == {segment.name}, "the second look may find what was not there at the first"
        assert processes.unlink_unmapped(segments.names) == [], "it is mapped"
    finally:
        segment.close()
    assert processes.unlink_unmapped(segments.names) == [segment.name]
    assert not (processes.SHARED_MEMORY / segment.name).exists()


def test_a_process_that_is_found_late_may_have_made_a_segment():
    """On a cluster that runs already, the driver names its actors every few seconds."""
    segments = processes.Segments()
    segment = shared_memory.SharedMemory(create=True, size=4096)
    try:
        for _ in range(3):
            segments.look([os.getppid()], at_once=True)
        assert not segments.names
        segments.look([os.getppid(), os.getpid()], at_once=True)
        assert segments.names == {segment.name}
    finally:
        segment.close()
        segment.unlink()


def test_a_semaphore_belongs_to_the_process_that_made_it():
    """vLLM's engine makes one and may be killed before its worker opens it. The file that it maps has another name."""
    segments = processes.Segments()
    lock = multiprocessing.get_context("spawn").Lock()
    name = f"sem.{lock._semlock.name.lstrip('/')}"
    segments.look([os.getpid()], at_once=True)
    assert segments.names == {name}
    assert processes.unlink_unmapped(segments.names) == [], "it is mapped"
    assert (processes.SHARED_MEMORY / name).exists()
