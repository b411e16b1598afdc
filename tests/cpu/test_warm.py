"""The warm Python stands for `python`: arguments, streams, exit codes, signals, descriptors, and its end.

The zygote here holds only what every fork needs, so that it is up in a second; tests/e2e uses the whole one.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from posttrain_verl.cpu import warm as warm_python
from posttrain_verl.cpu.warm import title_of

SERVER = """
from posttrain_verl.cpu import warm
warm.RAY_MODULES = ("ray",)
warm.serve({listener}, ("numpy", "torch"))
"""


SHOWN = """
def shown(pid):
    return [open(f"/proc/{pid}/{name}").read().strip("\\0\\n") for name in ("cmdline", "comm")]
"""
# What a fork shows before and after vLLM's way to set a title.
RETITLED = f"""{SHOWN}
import json, os, setproctitle
before = shown(os.getpid())
setproctitle.setproctitle("VLLM::EngineCore")
print(json.dumps([before, shown(os.getpid())]))
"""
# The same of Ray's way, in a worker of Ray, with what Ray itself knows of it and what the zygote shows.
RETITLED_BY_RAY = f"""{SHOWN}
import json, os, setproctitle, ray
ray._raylet.setproctitle("ray::WorkerDict.update_actor")
by_ray = [*shown(os.getpid()), ray._raylet.getproctitle()]
setproctitle.setproctitle("VLLM::Worker")
print(json.dumps([by_ray, shown(os.getpid()), shown(os.getppid())]))
"""


class Warm:
    def __init__(self, folder):
        address = folder / "socket"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(address))
        self.listener.listen(8)
        number = self.listener.fileno()
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER.format(listener=number)], stdin=subprocess.PIPE, pass_fds=[number]
        )
        self.python = str(warm_python.write_executable(folder))
        self.exits = folder / warm_python.EXITS

    def run(self, *words, **options):
        return subprocess.run([self.python, *words], capture_output=True, text=True, check=False, timeout=60, **options)

    def start(self, program, **options):
        return subprocess.Popen([self.python, "-c", program], stdout=subprocess.PIPE, text=True, **options)

    def exit_of(self, pid):
        """As whoever watches a run reads it; None where nothing is recorded."""
        files = sorted(self.exits.glob(f"{pid}.*"), key=lambda file: file.stat().st_mtime_ns)
        return int(files[-1].read_text()) if files else None

    def end(self):
        self.server.stdin.close()
        self.server.wait(timeout=30)
        self.listener.close()


@pytest.fixture(scope="module")
def warm():
    with tempfile.TemporaryDirectory() as folder:  # tmp_path may be too long for a socket
        it = Warm(Path(folder))
        yield it
        it.end()


def eventually(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


def gone(pid):
    return eventually(lambda: not psutil.pid_exists(pid))


def test_it_is_a_fork_of_the_zygote(warm):
    done = warm.run("-c", "import os, sys; print(os.getppid(), 'torch' in sys.modules)")
    assert done.stdout.split() == [str(warm.server.pid), "True"]


def test_code_module_and_script_get_their_arguments(warm, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys, beside; print(__name__, sys.argv)")
    (tmp_path / "beside.py").write_text("")
    assert warm.run("-u", "-c", "import sys; print(sys.argv)", "a", "b").stdout == "['-c', 'a', 'b']\n"
    assert warm.run(str(script), "a").stdout == f"__main__ ['{script}', 'a']\n"
    assert warm.run("-m", "json.tool", "--compact", input='{"a": 1}').stdout == '{"a":1}\n'


def test_environment_and_folder_are_the_callers(warm, tmp_path):
    done = warm.run("-c", "import os; print(os.getcwd(), dict(os.environ)['ONLY'], 'HOME' in os.environ)",
                    cwd=tmp_path, env={"ONLY": "this"})  # fmt: skip
    assert done.stdout.split() == [str(tmp_path), "this", "False"]


@pytest.mark.parametrize(
    ("program", "code"),
    [("pass", 0), ("import sys; sys.exit(7)", 7), ("import sys; sys.exit('why')", 1), ("1/0", 1),
     ("import os; os._exit(9)", 9), ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL)],
)  # fmt: skip
def test_exit_codes(warm, program, code):
    assert warm.run("-c", program).returncode == code


def test_an_exception_prints_its_traceback(warm):
    assert "ZeroDivisionError" in warm.run("-c", "1/0").stderr


def test_the_reason_given_to_exit_is_printed(warm):
    assert warm.run("-c", "import sys; sys.exit('why')").stderr == "why\n"


def test_signals_reach_the_fork(warm):
    program = (
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('up', flush=True)\ntime.sleep(60)"
    )
    with warm.start(program) as process:
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.wait(timeout=20) == 5


def test_descriptors_keep_their_numbers(warm):
    read, write = os.pipe()
    done = warm.run("-c", f"import os; os.write({write}, b'through')", pass_fds=[write])
    os.close(write)
    with os.fdopen(read) as pipe:
        assert (done.returncode, pipe.read()) == (0, "through")


def test_the_fork_ends_with_its_client(warm):
    with warm.start("import os, time; print(os.getpid(), flush=True); time.sleep(60)") as process:
        pid = int(process.stdout.readline())
        process.kill()
    assert gone(pid)


def test_forks_draw_different_random_numbers(warm):
    program = "import random, numpy; print(random.random(), numpy.random.rand())"
    assert not set(warm.run("-c", program).stdout.split()) & set(warm.run("-c", program).stdout.split())


def test_multiprocessing_spawns_through_it(warm, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, os\n"
        "def work(queue):\n    queue.put(os.getppid())\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    queue = context.Queue()\n"
        "    child = context.Process(target=work, args=(queue,))\n"
        "    child.start()\n    print(queue.get(timeout=30))\n    child.join()\n    print(child.exitcode)\n"
    )
    done = warm.run(str(script))
    assert done.stdout.split() == [str(warm.server.pid), "0"], done.stderr


def test_all_end_with_the_owner_of_the_zygote():
    with tempfile.TemporaryDirectory() as folder:
        warm = Warm(Path(folder))
        with warm.start("import os, time; print(os.getpid(), flush=True); time.sleep(60)") as process:
            pid = int(process.stdout.readline())
            warm.end()
            assert process.wait(timeout=20) != 0
        assert gone(pid)


def test_without_a_zygote_it_is_the_ordinary_python(tmp_path):
    python = warm_python.write_executable(tmp_path)  # its socket is not there
    done = subprocess.run(
        [python, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == sys.executable


def test_only_one_file_knows_the_switch():
    product = Path(warm_python.__file__).parents[1]
    knows = {file.name for file in product.rglob("*.py") if warm_python.SWITCH in file.read_text()}
    assert knows == {"warm.py"}


@pytest.mark.parametrize("value", ["0", ""])
def test_switched_off_nothing_starts_and_python_is_the_ordinary_one(monkeypatch, tmp_path, value):
    monkeypatch.setenv(warm_python.SWITCH, value)
    monkeypatch.setattr(warm_python.subprocess, "Popen", None)  # a start would fail
    named = {}
    with warm_python.started({"VERL_PLATFORM": "cpu"}, tmp_path / "log", named):
        assert (named, warm_python.executable(named), warm_python.python(named)) == ({}, None, sys.executable)


def shown(pid):
    """What `ps` and `top` show of a process."""
    return [Path(f"/proc/{pid}/{name}").read_text().strip("\0\n") for name in ("cmdline", "comm")]


def test_the_zygote_says_what_it_is(warm):
    warm.run("-c", "pass")  # it answers, so it has started
    assert shown(warm.server.pid) == ["posttrain_verl: warm Python", "warm-Python"]


def test_a_fork_shows_its_command_and_then_the_title_it_is_given(warm, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(RETITLED)
    done = warm.run("-u", str(script), "--session=/tmp/it", "7")
    assert json.loads(done.stdout) == [
        ["python worker.py --session=it 7", "worker"], ["VLLM::EngineCore", "VLLM::EngineCor"]
    ], done.stderr  # fmt: skip


@pytest.mark.parametrize(
    ("words", "title", "name"),
    [
        (["-u", "-m", "posttrain_verl.run.driver", "/runs/it"], "python -m posttrain_verl.run.driver it", "driver"),
        (["-c", "import a\nprint(6/3)"], "python -c import a print(6/3)", "python-c"),
        (["script.py", *["word"] * 50], "python script.py" + " word" * 16 + " ...", "script"),
        (["-m"], "python -m", "python"),
        ([], "python", "python"),
    ],
)
def test_titles(words, title, name):
    assert title_of(words) == (title, name)


def test_the_stand_in_has_a_name_of_its_own(warm):
    with warm.start("print('up', flush=True); input()", stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == "up\n"
        assert shown(process.pid)[1] == "python-stand-in"
        process.communicate("\n")


@pytest.mark.parametrize(
    ("ending", "code"), [("pass", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", -signal.SIGKILL)]
)
def test_the_exit_is_recorded_before_the_client_ends(warm, ending, code):
    with warm.start(f"import os, sys; print(os.getpid(), flush=True); {ending}") as process:
        fork = int(process.stdout.readline())
        process.wait(timeout=20)
        assert [warm.exit_of(fork), warm.exit_of(process.pid)] == [code, code]


def test_the_exit_of_a_fork_whose_client_died_is_recorded(warm):
    with warm.start("import os, time; print(os.getpid(), flush=True); time.sleep(60)") as process:
        fork = int(process.stdout.readline())
        process.kill()
    assert gone(fork)
    assert eventually(lambda: [warm.exit_of(fork), warm.exit_of(process.pid)] == [-signal.SIGKILL] * 2)


@pytest.fixture
def raylet():
    """The variables of a worker of Ray, and the process that it takes for its raylet."""
    with subprocess.Popen(["sleep", "120"]) as process:
        yield {**os.environ, "RAY_RAYLET_PID": str(process.pid), "RAY_JOB_ID": "01000000"}, process
        process.kill()


def test_titles_set_by_ray_and_by_others_in_one_process(warm, raylet):
    done = warm.run("-c", RETITLED_BY_RAY, env=raylet[0])
    assert json.loads(done.stdout) == [
        ["ray::WorkerDict.update_actor", "ray::WorkerDict", "ray::WorkerDict.update_actor"],
        ["VLLM::Worker", "VLLM::Worker"],
        ["posttrain_verl: warm Python with Ray", "warm-Python+Ray"],
    ], done.stderr


def test_exits_under_ray_are_recorded_in_the_same_folder_to_the_last(warm, raylet):
    assert warm.run("-c", "import sys; sys.exit(3)", env=raylet[0]).returncode == 3
    program = "import os, time; print(os.getpid(), os.getppid(), flush=True); time.sleep(60)"
    with warm.start(program, env=raylet[0]) as process:
        fork, parent = map(int, process.stdout.readline().split())
        assert parent != warm.server.pid
        raylet[1].kill()
        raylet[1].wait()
        assert process.wait(timeout=20) == -signal.SIGKILL
        assert [warm.exit_of(fork), warm.exit_of(process.pid)] == [-signal.SIGKILL] * 2
