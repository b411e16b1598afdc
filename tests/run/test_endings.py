"""Ends that break into each other: signals again and again, a closed terminal, a full disk, a machine that went down."""

import errno
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from driven import FOREVER, abandoned, alive, conduct, in_background, trains, wait_for

from posttrain_verl import paths
from posttrain_verl.machine import processes
from posttrain_verl.run import record, resume, supervise
from posttrain_verl.run.folder import DONE, FAILED, INTERRUPTED, RUNNING, RunFolder
from posttrain_verl.terminal.problem import InputError


def test_a_record_that_cannot_be_read_is_in_nobodys_way(prepared):
    folder = abandoned(prepared(FOREVER))
    driver = folder.read_status().pid
    (folder.path / "processes.json").write_text('{"machine": "')
    assert conduct(prepared("pass", name="other"))[0].state == DONE
    os.kill(driver, signal.SIGKILL)  # VeRL's own would end with its standard input


def test_a_run_from_before_the_machine_booted_can_be_cleared_and_one_of_another_machine_not(prepared):
    folder = abandoned(prepared(FOREVER))
    file = folder.path / "processes.json"
    known = json.loads(file.read_text())
    file.write_text(json.dumps(known | {"machine": "another", "boot": "another"}))
    words = resume.read_request([f"run={folder.path}"])
    with pytest.raises(InputError, match=f"(?s)runs on the machine another.*delete {file}"):
        resume.require_resumable(folder, words)
    stopped = [sys.executable, "-m", "posttrain_verl.stop", f"run={folder.path}"]
    refused = subprocess.run(stopped, capture_output=True, text=True)
    assert refused.returncode == 2 and f"delete {file}" in refused.stderr
    own = psutil.Process()  # its pid and start were those of a process of the run before the machine booted
    mine = {"pid": own.pid, "started": processes.find_process(own.pid).started}
    file.write_text(json.dumps(known | {"boot": "an earlier one", "processes": [mine], "supervisor": mine}))
    resume.require_resumable(folder, words)
    assert record.is_lost(folder)
    assert subprocess.run(stopped, capture_output=True).returncode == 0
    assert folder.read_status().state == FAILED
    os.kill(known["processes"][0]["pid"], signal.SIGKILL)


def test_a_second_ctrl_c_ends_the_waiting(prepared):
    folder = prepared("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FOREVER)
    process = in_background(folder)
    wait_for(lambda: trains(folder))
    driver, began = folder.read_status().pid, time.monotonic()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(1.5)
    process.communicate(timeout=30)
    assert time.monotonic() - began < supervise.STOP_SECONDS
    assert process.returncode == 130
    assert folder.read_status().state == INTERRUPTED
    assert not alive(driver)


def test_ctrl_c_again_and_again_breaks_into_nothing(prepared):
    """Whatever the supervisor is about when the next signal comes: status.json is written, and nothing is left."""
    folder = prepared("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FOREVER)
    process = in_background(folder)
    wait_for(lambda: trains(folder))
    driver, folders = folder.read_status().pid, json.loads((folder.path / "processes.json").read_text())["folders"]
    while process.poll() is None:
        process.send_signal(random.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))
        time.sleep(random.random() / 50)
    output = process.stdout.read()
    assert process.returncode == 130, output
    assert "Traceback" not in output and re.search(
        r"interrupted: (Ctrl-C|`stop`|its terminal).*; resume it: python -m", output
    )
    assert folder.read_status().state == INTERRUPTED and not (folder.path / "processes.json").exists()
    assert not alive(driver) and not any(map(os.path.exists, folders))


def test_a_closed_terminal_ends_the_run_as_ctrl_c_does(prepared):
    folder = prepared(FOREVER)
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup, and nohup is honoured
        os.execv(sys.executable, [sys.executable, "-m", "posttrain_verl.run.supervise", str(folder.path)])
    wait_for(lambda: trains(folder))
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    status = folder.read_status()
    assert status.state == INTERRUPTED and not alive(status.pid)
    assert not (folder.path / "processes.json").exists()


def test_a_user_without_a_place_for_the_cache_is_told_what_to_set(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match=r"(?s)no folder for the cache.*set POSTTRAIN_CACHE"):
        record.clear_dead_runs()
    monkeypatch.delenv("POSTTRAIN_CACHE")
    monkeypatch.setattr(paths.platformdirs, "user_cache_dir", nowhere)
    with pytest.raises(InputError, match=r"(?s)no folder for the cache.*set POSTTRAIN_CACHE"):
        record.clear_dead_runs()


def nowhere(name):
    raise RuntimeError("could not determine the home directory")


@pytest.mark.parametrize(("words", "code"), [([], 130), (["nohup"], 0)])
def test_a_closed_terminal_is_ctrl_c_to_what_starts_runs(words, code):
    waits = (
        "from posttrain_verl.machine import interrupts; interrupts.treat_as_ctrl_c(); print(flush=True); time.sleep(3)"
    )
    command = [*words, sys.executable, "-c", f"import time; {waits}"]
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGHUP, before)
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=30)
    assert ("KeyboardInterrupt" in said) == bool(code)
    assert process.returncode in (code, -signal.SIGINT if code else 0)


def test_nohup_is_honoured(prepared):
    folder = prepared(FOREVER.replace("600", "3"))
    command = ["nohup", sys.executable, "-m", "posttrain_verl.run.supervise", str(folder.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    wait_for(lambda: trains(folder))
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert (process.returncode, folder.read_status().state) == (0, DONE)


def test_a_run_outlives_whoever_read_what_it_printed(prepared):
    folder = prepared("for step in range(1, 4): log(step, **{'train/loss': 1.0}); time.sleep(1)")
    process = in_background(folder)
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert (folder.read_status().state, folder.read_status().last_step) == (DONE, 3)


def test_a_run_folder_that_vanishes_ends_the_run(prepared):
    folder = prepared("for step in range(600): log(step, **{'train/loss': 1.0}); time.sleep(0.5)")
    process = in_background(folder)
    wait_for(lambda: trains(folder) and folder.read_status().last_step)
    driver = folder.read_status().pid
    folder.path.rename(folder.path.with_name("elsewhere"))
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "status.json cannot be written" in output and "Traceback" not in output
    assert not alive(driver)


def test_a_full_disk_ends_the_run_and_the_next_start_says_so(prepared, monkeypatch):
    def full(folder, status):
        if status.last_step:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(folder, status)

    written = RunFolder.write_status
    folder = prepared(FOREVER)
    with monkeypatch.context() as while_full:
        while_full.setattr(RunFolder, "write_status", full)
        status, _ = conduct(folder)
    assert (status.state, alive(status.pid)) == (FAILED, False)
    assert status.why == "the run folder cannot be written: [Errno 28] No space left on device"
    assert folder.read_status().state == RUNNING and record.read_record(folder), "which could not be changed"
    file = folder.path / "processes.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"supervisor": {"pid": 1, "started": 1}}))  # ours ended
    conduct(prepared("pass", name="other"))
    assert folder.read_status().state == FAILED


def test_metrics_that_a_full_disk_broke_are_passed_over(prepared, steps):
    broken = "open(os.environ['VERL_FILE_LOGGER_PATH'], 'a').write('{\"step\": 2, \"da\\n')"
    folder = prepared(f"log(1, **{{'train/loss': 1.0}})\n{broken}\nlog(3, **{{'train/loss': 1.0}}); time.sleep(1)")
    status, told = conduct(folder)
    assert (status.state, status.last_step) == (DONE, 3), told
