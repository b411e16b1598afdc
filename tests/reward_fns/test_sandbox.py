"""The sandbox itself: what a program sees, what it can harm, and how limits end it."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import reward_fns
from reward_fns.code import extract, problem, sandbox
from reward_fns.code.inside import confine, wire
from reward_fns.code.sandbox import Limits, SandboxPool

LIMITS = Limits(wall=2.0, memory=256 << 20, output=1 << 20)


@pytest.fixture(scope="module")
def box(sandboxed):
    pool = SandboxPool(1)
    with pool.sandbox() as one:
        yield one
    pool.close()


def run(box, source, stdin="", limits=LIMITS):
    return box.run_script(source, stdin, limits)


def test_output_code_and_error_come_back(box):
    done = run(box, "import sys\nprint(input())\nprint('no', file=sys.stderr)\nsys.exit(3)", "hello\n")
    assert (done.code, done.why, done.stdout, done.stderr) == (3, "", "hello\n", "no\n")


@pytest.mark.parametrize("path", ["/x", "/usr/x", "/dev/x", "/dev/shm/x", "/sandbox/x", "/proc/sys/kernel/hostname"])
def test_nothing_is_writable_but_the_scratch_folder(box, path):
    assert run(box, f"open({path!r}, 'w').write('x')").code == 1
    assert run(box, "open('/tmp/x', 'w').write('x')").code == 0


def test_scratch_is_empty_for_each_program(box):
    run(box, "open('left', 'w').write('x')")
    assert run(box, "import os; print(os.listdir('.'), os.listdir('/tmp'))").stdout == "[] []\n"


def test_a_program_sees_its_own_processes_only(box):
    seen = run(box, "import os; print([p for p in os.listdir('/proc') if p.isdigit()], os.getpid())").stdout
    assert seen == "['1'] 1\n"


def test_environment_and_files_of_the_trainer_are_out_of_sight(box):
    names = run(box, "import os; print(*os.environ)").stdout.split()
    assert set(names) <= {"HOME", "LANG", "LC_CTYPE", "PATH", "PWD", "PYTHONHASHSEED"}
    for folder in ("/root", "/home", "/etc", "/var", "/opt", "/srv"):
        assert run(box, f"open({folder!r})").code == 1


@pytest.mark.parametrize(
    "call",
    [
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
        "import ctypes; assert ctypes.CDLL(None).mount(b'a', b'/tmp', b'tmpfs', 0, None) == 0",
        "import ctypes; assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
        "import os; os.memfd_create('a')",
        "import os; os.setuid(0)",
        "import os; os.chroot('/tmp')",
        "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6))",
        "import ctypes; assert ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0",
        "import os\nif os.fork() == 0:\n    os.setsid()\n    os._exit(0)\nos._exit(os.waitstatus_to_exitcode(os.wait()[1]))",
    ],
)
def test_the_kernel_refuses(box, call):
    assert run(box, call).code == 1


# Eight processes, each within the limit of one, together over it.
CROWD = """
import os, time
for i in range(8):
    if os.fork() == 0:
        x = b"x" * (100 << 20)
        time.sleep(60)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("while True: pass", "time"),
        ("import time; time.sleep(60)", "time"),
        (CROWD, "memory"),
    ],
)  # fmt: skip
def test_limits_end_a_program(box, source, why):
    begin = time.monotonic()
    limits = replace(LIMITS, wall=20.0) if why == "memory" else LIMITS
    assert run(box, source, limits=limits).why == why
    assert time.monotonic() - begin < limits.wall + 2


@pytest.mark.parametrize(
    "source", ["print('x' * (1 << 30))", "x = bytearray(100 << 30)", "import os\nwhile True: os.fork()"]
)
def test_a_program_that_asks_for_too_much_fails(box, source):
    done = run(box, source)
    assert done.code != 0 or done.why
    assert len(done.stdout) <= LIMITS.output


@pytest.mark.parametrize(("processes", "nice"), [(0, "0"), (12, "19")])
def test_a_crowd_gives_way_to_the_programs_beside_it(box, processes, nice):
    source = f"""
import os, time
for _ in range({processes}):
    if os.fork() == 0:
        time.sleep(60)
time.sleep(0.5)
print(os.nice(0))
"""
    assert run(box, source).stdout == f"{nice}\n"


def test_nothing_survives_a_program(box):
    run(
        box,
        "import os, time\nif os.fork() == 0:\n    if os.fork() == 0: time.sleep(300)\n    os._exit(0)",
    )
    time.sleep(0.2)
    left = [p for p in Path("/proc").iterdir() if p.name.isdigit() and "time.sleep(300)" in cmdline(p)]
    assert left == []


def cmdline(folder):
    try:
        return (folder / "cmdline").read_text()
    except OSError:
        return ""


@pytest.mark.usefixtures("sandboxed")
def test_a_dead_sandbox_is_replaced():
    pool = SandboxPool(1)
    with pool.sandbox() as first:
        run(first, "print(1)")
    first.server.close()
    with pool.sandbox() as second:
        assert run(second, "print(1)").stdout == "1\n"
    pool.close()


def test_without_bubblewrap_model_code_does_not_run(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    monkeypatch.delenv(sandbox.ALLOW_UNISOLATED, raising=False)
    sandbox.find_interpreter.cache_clear()
    with pytest.raises(sandbox.SandboxUnavailable, match=r"bubblewrap is not installed.*apt-get.*POSTTRAIN_ALLOW"):
        sandbox.isolation_here()
    monkeypatch.setenv(sandbox.ALLOW_UNISOLATED, "1")
    assert sandbox.isolation_here() == "none"
    sandbox.find_interpreter.cache_clear()


def test_unisolated_it_grades_the_same():
    pool = SandboxPool(1, isolation="none")
    with pool.sandbox() as box:
        spec = {"kind": "assert", "tests": ["assert f(2) == 4", "assert f(3) == 9"], "names": ["f"]}
        assert box.run_tests("def f(x): return x * x", spec, LIMITS)["passed"] == [True, True]
        assert run(box, "while True: pass", limits=Limits(wall=0.5)).why == "time"
    pool.close()


@pytest.mark.usefixtures("sandboxed")
def test_partial_credit_is_the_share_of_tests():
    tests = json.dumps({"test_list": ["assert f(1) == 1", "assert f(2) == 4", "assert f(3) == 9", "assert f(0) == 0"]})
    half = reward_fns.grade("mbpp", "def f(x): return x", tests, partial=True)
    assert (half["score"], half["acc"]) == (0.5, 0.0)
    assert reward_fns.grade("mbpp", "def f(x): return x", tests)["score"] == 0.0


@pytest.mark.usefixtures("sandboxed")
def test_tests_that_prove_nothing_are_the_verifiers_fault():
    grade = reward_fns.grade("apps", "```python\npass\n```", json.dumps({"inputs": ["1"], "outputs": [""]}))
    assert (grade["score"], grade["verifier_error"]) == (0.0, 1.0)


@pytest.mark.usefixtures("sandboxed")
def test_a_test_that_cannot_be_sent_is_the_verifiers_fault():
    tests = json.dumps({"test_list": ["assert f(object()) == 1"]})
    grade = reward_fns.grade("mbpp", "def f(x): return 1", tests)
    assert (grade["score"], grade["verifier_error"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    "tests", ["", "[]", "{}", '{"a": 1}', '{"inputs": [1], "outputs": []}', '{"test_list": []}', "3"]
)
def test_unknown_tests_are_an_error_of_the_data(tests):
    with pytest.raises(problem.BadTests):
        problem.read_problem(tests)


def test_an_unknown_machine_has_no_filter_and_says_so(monkeypatch):
    monkeypatch.setattr(confine.platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match=r"no filter of system calls for a machine of the kind riscv64, only for x86_64"):
        confine.refuse_system_calls()


@pytest.mark.usefixtures("sandboxed")
def test_programs_are_not_graded_where_there_is_no_filter():
    """A personality of the kernel makes the machine one of 32 bits, for the child and all that it starts."""
    program = (
        "import ctypes, os; ctypes.CDLL(None).personality(8); import reward_fns; print(os.uname().machine, flush=True); "
        """reward_fns.grade("mbpp", "def f(x): return x", '{"test_list": ["assert f(1) == 1"]}')"""
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    machine = done.stdout.strip()
    assert machine not in confine.ARCHITECTURES
    assert f"no filter of system calls for a machine of the kind {machine}" in done.stderr
    assert "SandboxUnavailable" in done.stderr and sandbox.ALLOW_UNISOLATED in done.stderr


def test_other_languages_need_a_server():
    tests = json.dumps({"inputs": ["1"], "outputs": ["1"], "language": "cpp"})
    with pytest.raises(problem.BadTests, match="sandbox_url"):
        reward_fns.grade("codecontests", "```cpp\nint main(){}\n```", tests)


def test_program_of_a_response_in_another_language():
    assert (
        extract.extract_program("```cpp\nint main(){}\n```\n```python\n1\n```", language="cpp").text == "int main(){}\n"
    )


@pytest.mark.parametrize(
    "value",
    [None, True, 1, -(2**80), 1.5, float("inf"), "a", "\ud800", b"a", 1j, [1, (2, {3}), {"a": [None]}], range(3)],
)
def test_the_wire_keeps_plain_data(value):
    sent = json.loads(json.dumps(wire.encode(value, lambda v: 1 / 0)))
    assert wire.decode(sent, lambda v: 1 / 0) == value


def test_the_wire_passes_exact_types_alone():
    class Liar(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    assert wire.encode([1, Liar(1)], lambda value: {"opaque": type(value).__name__}) == {
        "list": [1, {"opaque": "Liar"}]
    }


@pytest.mark.usefixtures("sandboxed")
@pytest.mark.parametrize(("body", "verifier_error"), [("x + 1", 1.0), ("x", 1.0), ("__import__('absent').x", 0.0)])
def test_a_module_that_the_tests_lack_is_the_verifiers_failure_and_one_that_the_program_lacks_is_not(
    body, verifier_error
):
    lacking = "import absent\n" if verifier_error else ""
    tests = {"functional": f"{lacking}for x in (1, 2):\n    assert f(x) == x + 1"}
    grade = reward_fns.grade("mbpp", f"```python\ndef f(x):\n    return {body}\n```", json.dumps(tests))
    assert (grade["acc"], grade["verifier_error"]) == (0.0, verifier_error)
