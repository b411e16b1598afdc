"""From a prepared run folder to its end: what dead runs left is cleared, the folder is held, the warm Python is up.

`python -m posttrain_verl.run.session RUN_DIR [--detached]` is the process that supervises a run: it imports as little as it can.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from posttrain_verl.cpu import zygote
from posttrain_verl.problem import InputError, Problem, exit_code
from posttrain_verl.run import attempts, environment, interrupts, live, record
from posttrain_verl.run.folder import DONE, INTERRUPTED, RUNNING, RunFolder, Status
from posttrain_verl.run.live import say
from posttrain_verl.run.processes import process

Report = Callable[[str], None]
EXIT_CODES = {DONE: 0, INTERRUPTED: 130}
OUTPUT = "launch.txt"  # what a detached launch would have printed
START_SECONDS = 60.0
DETACHED = "--detached"


@contextmanager
def held(folder: RunFolder, report: Report) -> Iterator[None]:
    """Clear what dead runs left, and keep every other launch out of the folder.

    Raises:
        InputError: another launch has it.
    """
    record.clear_dead_runs(report)
    lock = record.lock_of(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        problem = Problem(f"{folder.path} is run by another launch", "wait for it, or end it with posttrain_verl.stop")
        raise InputError("cannot go on", [problem]) from None
    try:
        if (known := record.read(folder)) and known.is_supervised:  # by a launch whose cache, and so lock, is another
            raise InputError("cannot go on", [record.running(folder, known)])
        yield
    finally:
        lock.release()


@contextmanager
def warm_python(folder: RunFolder, variables: dict[str, str]) -> Iterator[None]:
    """On the CPU backend of this machine, let the run's processes be forks of a warm one; an outer one is shared.

    The warm Python itself is no process of the run: it lasts over its attempts.
    """
    if not environment.forks(variables) or environment.WARM_PYTHON in os.environ:
        yield
        return
    shared = {key: value for key, value in variables.items() if key != "VERL_FILE_LOGGER_PATH"}
    with folder.log.open("ab") as log, zygote.warm(shared, log) as python:
        variables[environment.WARM_PYTHON] = str(python)
        yield


def hand_over(folder: RunFolder, detached: bool) -> int:
    """Let a process that is only a supervisor conduct the run, this one's successor or, detached, one of its own session.

    A launch has composed and prepared data, and holds hundreds of megabytes; who follows a run for days should hold few.
    """
    if not detached:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "posttrain_verl.run.session", str(folder.path)])
    return detach(folder)


def conduct(folder: RunFolder, report: Report, show: Report | None = None, detached: bool = False) -> Status:
    """Run a prepared folder to its end and return its status; what it needs to know stands in plan.json."""
    plan = folder.read_plan()
    variables = environment.of_run(folder, plan["hardware"], plan["local_model"])
    with held(folder, report), interrupts.noted(), warm_python(folder, variables):
        status = attempts.run(folder, variables, report, show, detached)
    report(conclusion(folder, status))
    return status


def detach(folder: RunFolder) -> int:
    """Start `conduct` in a session of its own and return the exit code of the launch once it is known to live, or not to."""
    command = [sys.executable, "-m", "posttrain_verl.run.session", str(folder.path), DETACHED]
    output = folder.path / OUTPUT
    with output.open("ab") as log:
        started = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    until = time.monotonic() + START_SECONDS
    while started.poll() is None and not _trains(folder, started.pid) and time.monotonic() < until:
        time.sleep(0.1)
    if started.poll() is not None and not _trains(folder, started.pid):
        say(output.read_text(errors="replace").rstrip())
        return max(started.returncode, 1)
    name = f"run={folder.path}"
    say(f"run {folder.path.name} lives (pid {started.pid}); follow it: python -m posttrain_verl.logs -f {name}")
    say(f"what it does: python -m posttrain_verl.status {name}; end it: python -m posttrain_verl.stop {name}")
    return 0


def _trains(folder: RunFolder, supervisor: int) -> bool:
    if not folder.status.exists():
        return False
    status = folder.read_status()
    if status.supervisor != supervisor:
        return False
    return status.state != RUNNING or (status.pid is not None and process(status.pid) is not None)


def conclusion(folder: RunFolder, status: Status) -> str:
    """The last line: what came of the run and where to look."""
    if status.state == DONE:
        seconds = (status.ended or 0) - status.started
        return f"done after {status.last_step} steps in {seconds:.0f} s; checkpoints and metrics in {folder.path}"
    return f"{status.state}{f': {status.why}' if status.why else ''}; the log is {folder.log}"


def main() -> int:
    interrupts.as_ctrl_c()
    code = exit_code(lambda: followed(RunFolder(Path(sys.argv[1])), DETACHED in sys.argv[2:]))
    interrupts.ignore()  # one that comes while the interpreter ends would change the exit code
    return code


def followed(folder: RunFolder, detached: bool = False) -> int:
    """Conduct the run of a folder with its status line, to its exit code."""
    with live.line() as (report, show):
        return EXIT_CODES.get(conduct(folder, report, show, detached).state, 1)


if __name__ == "__main__":
    sys.exit(main())
