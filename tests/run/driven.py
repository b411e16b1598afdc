"""What the tests with a driver of their own share: to start a run, wait for it and look at it."""

import json
import subprocess
import sys
import time

import psutil

from posttrain_verl.run import supervise
from posttrain_verl.terminal import console

FOREVER = "log(1, **{'train/loss': 1.0}); time.sleep(600)"


def conduct(folder):
    told = []
    with console.shown(told.append):
        return supervise.supervise_run(folder), told


def events(folder):
    return [json.loads(line) for line in folder.events.read_text().splitlines()]


def in_background(folder):
    command = [sys.executable, "-m", "posttrain_verl.run.supervise", str(folder.path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.05)


def abandoned(folder):
    """The run in the folder, training, its supervisor killed."""
    process = in_background(folder)
    wait_for(lambda: trains(folder))
    process.kill()
    process.wait()
    return folder


def alive(pid):
    """Whether it runs: an orphan that ended stays a zombie where nobody waits for orphans."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def trains(folder):
    return folder.metrics.exists() and folder.metrics.read_text()
