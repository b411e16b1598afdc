"""Who belongs to a run, as its supervisor sees it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from posttrain_verl.machine.processes import Process, ProcessTree, describe_exit, find_process

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
    census = ProcessTree(MARKER, driver=-1)
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
    census = ProcessTree(MARKER, driver=-1, forks=tmp_path)
    record = tmp_path / find_process(worker.pid).id
    record.write_text("")
    until(lambda: census.look() is not None and worker.pid in census.members)
    record.unlink()
    record.symlink_to(tmp_path / "nowhere")  # it is listed, and cannot be read
    census.look()
    assert set(census.members) == {worker.pid}
    with subprocess.Popen(["sleep", "60"]) as fork:
        record.unlink()
        record.write_text(find_process(fork.pid).id)
        census.look()
        assert set(census.members) == {worker.pid, fork.pid}
        fork.kill()


def test_a_stranger_with_the_number_of_an_earlier_fork_is_none(worker, tmp_path):
    """Numbers of processes are used again, within minutes where there are 32,768; what belongs to a run is killed at its end."""
    worker.stdin.write(b"x")
    worker.stdin.flush()
    census = ProcessTree(MARKER, driver=-1, forks=tmp_path)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (tmp_path / find_process(worker.pid).id).write_text(f"{stranger.pid}.1")
        (tmp_path / f"{worker.pid}.1").write_text(find_process(stranger.pid).id)
        until(lambda: census.look() is not None and worker.pid in census.members)
        census.look()
        assert set(census.members) == {worker.pid}
        stranger.kill()


def test_what_a_fork_of_the_warm_python_started_just_before_it_was_killed(worker, tmp_path):
    """Its session is that of the warm Python, its environment in /proc too, and its parent is gone: the group is left."""
    worker.stdin.write(b"x")  # the client that the fork stands for
    worker.stdin.flush()
    census = ProcessTree(MARKER, driver=-1, forks=tmp_path)
    until(lambda: census.look() is not None and worker.pid in census.members)
    program = "import os; os.read(0, 1); child = os.fork(); child and os.write(1, b'%d\\n' % child); os.read(0, 1)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], process_group=0, **pipes) as fork:
        (tmp_path / find_process(worker.pid).id).write_text(find_process(fork.pid).id)
        census.look()
        fork.stdin.write(b"x")
        fork.stdin.flush()
        child = int(fork.stdout.readline())
        fork.kill()
        fork.wait()
        assert [one.pid for one in census.look()] == [fork.pid]
        assert child in census.members
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(("ending", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9)])
def test_how_a_process_ended_is_known_until_its_parent_has_waited_for_it(ending, code):
    with subprocess.Popen(["sh", "-c", f"read line; {ending}"], stdin=subprocess.PIPE) as child:
        census = ProcessTree("POSTTRAIN_TEST_RUN=none", driver=os.getsid(child.pid))
        one = find_process(child.pid)
        assert census.exit_code(one) is None
        child.stdin.close()
        until(lambda: not one.is_alive)
        assert census.exit_code(one) == code
        child.wait()
        assert census.exit_code(one) is None


def test_the_warm_python_says_how_its_fork_ended(tmp_path):
    (tmp_path / "exits").mkdir()
    (tmp_path / "exits" / "7.1").write_text("-11")
    census = ProcessTree("POSTTRAIN_TEST_RUN=none", driver=-1, forks=tmp_path / "forks")
    assert census.exit_code(Process(7, 1)) == -11
    assert census.exit_code(Process(7, 2)) is None, "a later process with its number"
    assert census.exit_code(Process(8, 1)) is None


def test_the_warm_python_that_imports_is_looked_at_for_signs_of_life(tmp_path):
    census = ProcessTree("POSTTRAIN_TEST_RUN=none", driver=-1, forks=tmp_path / "forks")
    assert census.warm_pythons() == {}, "none, or one that writes its pid at this moment"
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"]) as warm:
        (tmp_path / "pid").write_text(str(warm.pid))
        until(lambda: len(census.warm_pythons()) == 2)
        assert warm.pid in census.warm_pythons()
        census.members[warm.pid] = find_process(warm.pid)
        assert warm.pid not in census.warm_pythons()
        for pid in [*census.warm_pythons(), warm.pid]:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("code", "told"),
    [(None, "not known"), (0, "exit status 0"), (-9, "ended by SIGKILL"), (-60, "ended by signal 60")],
)
def test_how_a_process_ended_is_told(code, told):
    assert told in describe_exit(code)


def test_a_fork_bears_the_title_of_its_parent(tmp_path):
    """Before it becomes something else, for a moment or for good; it is not the process that the title means."""
    program = "import os, time; os.fork() or os.fork(); time.sleep(60)"
    with subprocess.Popen(
        ["VLLM::EngineCore", "-c", program], executable=sys.executable, start_new_session=True
    ) as engine:
        census = ProcessTree("POSTTRAIN_TEST_RUN=none", driver=engine.pid)
        until(lambda: census.look() is not None and len(census.members) == 3)
        census.refresh_names()
        assert {census.name(pid) for pid in census.members} == {"VLLM::EngineCore"}
        assert [pid for pid in census.members if census.named_itself(pid)] == [engine.pid]
        os.killpg(engine.pid, signal.SIGKILL)


def test_facts_of_a_process_that_ends_while_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("posttrain_verl.machine.processes.PROC", tmp_path)
    (tmp_path / "7").mkdir()
    for text in ("", "7 (python) R 1"):
        (tmp_path / "7" / "stat").write_text(text)
        assert find_process(7) is None


def test_what_is_old_is_not_read_again(worker, monkeypatch):
    monkeypatch.setattr("posttrain_verl.machine.processes._SETTLED_SECONDS", -1000.0)
    census = ProcessTree(MARKER, driver=-1)
    census.look()
    monkeypatch.setattr(
        census, "_examine_process", lambda pid: pytest.fail("looked at again") if pid == worker.pid else None
    )
    census.look()
