"""Who belongs to a run, as its supervisor sees it."""

import os
import subprocess
import sys
import time

import pytest

from posttrain_verl.run.processes import Census

MARKER = "POSTTRAIN_TEST_RUN=census"
# As Ray starts a worker: under the raylet's environment first, then an exec with the run's.
WORKER = (
    "import os; os.read(0, 1); os.execve('/bin/sleep', ['sleep', '60'], {**os.environ, 'POSTTRAIN_TEST_RUN': 'census'})"
)


@pytest.fixture
def worker():
    environ = {name: value for name, value in os.environ.items() if name != "POSTTRAIN_TEST_RUN"}
    with subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, env=environ) as process:
        yield process
        process.kill()


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_worker_that_takes_long_to_get_the_environment_of_the_run(worker):
    census = Census(MARKER, driver=-1)
    for _ in range(5):
        census.look()
    assert worker.pid not in census.members
    worker.stdin.write(b"x")
    worker.stdin.flush()
    until(lambda: census.look() is not None and worker.pid in census.members)
    worker.kill()
    worker.wait()
    assert [one.pid for one in census.look()] == [worker.pid]


def test_a_fork_whose_record_is_half_written_or_gone_is_none(worker, tmp_path):
    """The zygote writes and deletes these files while they are read."""
    worker.stdin.write(b"x")
    worker.stdin.flush()
    census = Census(MARKER, driver=-1, forks=tmp_path)
    record = tmp_path / str(worker.pid)
    record.write_text("")
    until(lambda: census.look() is not None and worker.pid in census.members)
    record.unlink()
    record.symlink_to(tmp_path / "nowhere")  # it is listed, and cannot be read
    census.look()
    assert set(census.members) == {worker.pid}
    with subprocess.Popen(["sleep", "60"]) as fork:
        record.unlink()
        record.write_text(str(fork.pid))
        census.look()
        assert set(census.members) == {worker.pid, fork.pid}
        fork.kill()


def test_what_is_old_is_not_read_again(worker, monkeypatch):
    monkeypatch.setattr("posttrain_verl.run.processes._SETTLED_SECONDS", -1000.0)
    census = Census(MARKER, driver=-1)
    census.look()
    monkeypatch.setattr(census, "_examine", lambda pid: pytest.fail("looked at again") if pid == worker.pid else None)
    census.look()
