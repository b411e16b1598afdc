"""Stacks as py-spy prints them: which thread, which frames, and a real process."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain_verl.watch import watcher

DUMP = """Process 7: ray::RewardLoopWorker
Python v3.11.7 (/usr/bin/python3.11)

Thread 9 (idle): "ThreadPoolExecutor-0_0"
    compute_score (grader.py:16)
    run (concurrent/futures/thread.py:58)
Thread 7 (idle): "MainThread"
    main_loop (worker.py:1069)
    <module> (default_worker.py:323)
    _run_code (runpy.py:88)
    run_path (runpy.py:291)
"""
PROGRAM = "import time\ndef hang():\n    print('up', flush=True)\n    time.sleep(600)\nhang()"


def test_the_main_thread_or_the_one_inside_a_function():
    assert (
        watcher.innermost_frames(DUMP)
        == "main_loop (worker.py:1069) < <module> (default_worker.py:323) < _run_code (runpy.py:88)"
    )
    assert (
        watcher.innermost_frames(DUMP, "compute_score")
        == "compute_score (grader.py:16) < run (concurrent/futures/thread.py:58)"
    )
    assert watcher.calls_function(DUMP, "compute_score")
    assert not watcher.calls_function(DUMP, "compute")
    assert watcher.innermost_frames("") == ""


@pytest.mark.skipif(
    not (Path(sys.executable).with_name("py-spy").exists() or shutil.which("py-spy")), reason="no py-spy"
)
def test_a_process_that_hangs():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        time.sleep(0.2)
        found = watcher.dump_stacks([process.pid, 2**22])
        process.kill()
    if not found and os.geteuid():
        pytest.skip("looking into a process is not allowed here")
    assert list(found) == [process.pid]
    assert watcher.calls_function(found[process.pid], "hang")
