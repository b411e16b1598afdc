"""Start the process that trains, follow it, restart it after what a restart heals, and say how the run ended.

`python -m posttrain_verl.run.supervise RUN_DIR [--detached | --beside]` is the process that supervises a run; it imports as
little as it can. It first clears what dead runs left, keeps other launches out of the folder, and on the CPU backend starts
the warm Python.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import Timeout

from posttrain_verl import paths
from posttrain_verl.cpu import warm
from posttrain_verl.machine import interrupts, processes
from posttrain_verl.machine.interrupts import Interrupts
from posttrain_verl.machine.processes import Process, ProcessTree, describe_exit, find_process
from posttrain_verl.run import environment, ray_state, record, resume
from posttrain_verl.run.folder import DONE, FAILED, INTERRUPTED, RUNNING, RunFolder, Status, worked_seconds
from posttrain_verl.run.follower import Follower
from posttrain_verl.run.output import Log
from posttrain_verl.terminal import console
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem, exit_code
from posttrain_verl.verl import progress
from posttrain_verl.verl.checkpoints import METRICS_VARIABLE
from posttrain_verl.watch.watcher import HEALED_BY_RESTART, RAY_START, UNATTENDED_RETRIES, Event, Watch, watch_settings

EXIT_CODES = {DONE: 0, INTERRUPTED: 130}
DETACHED_OUTPUT = "launch.txt"  # what a detached launch would have printed
DETACHED_FLAG = "--detached"
BESIDE_FLAG = "--beside"  # its standard input is a pipe of the program that launched the run
START_SECONDS = 60.0
POLL_SECONDS = 0.5
STOP_SECONDS = 15.0
ALARM_STOP_SECONDS = 5.0  # a process that hangs does not react to a signal, and its stacks were taken before
CLUSTER_SECONDS = 5.0  # a cluster that continues ends the workers of a run in its own time


def hand_over(folder: RunFolder, detached: bool) -> int:
    """Replace this process by the supervisor of the run, or with `detached` start one in a session of its own.

    A launch has composed and prepared data, and holds hundreds of megabytes. The process that follows a run for days should
    hold few. Returns the exit code of the launch once a detached supervisor trains, or has failed.
    """
    if not detached:
        sys.stdout.flush()
        os.execv(sys.executable, _command(folder))
    return start_detached(folder)


def _command(folder: RunFolder, *flags: str) -> list[str]:
    return [sys.executable, "-m", "posttrain_verl.run.supervise", str(folder.path), *flags]


def start_detached(folder: RunFolder) -> int:
    """Start the supervisor of the run in a session of its own; return 0 once it trains, or the exit code it failed with."""

    def is_training(supervisor: int) -> bool:
        status = folder.read_status() if folder.status.exists() else None
        if status is None or status.supervisor != supervisor:
            return False
        return status.state != RUNNING or (status.pid is not None and find_process(status.pid) is not None)

    output = folder.path / DETACHED_OUTPUT
    with output.open("ab") as printed:
        started = subprocess.Popen(
            _command(folder, DETACHED_FLAG), stdout=printed, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    until = time.monotonic() + START_SECONDS
    while started.poll() is None and not is_training(started.pid) and time.monotonic() < until:
        time.sleep(0.1)
    if started.poll() is not None and not is_training(started.pid):
        log.info(output.read_text(errors="replace").rstrip())
        return max(started.returncode, 1)
    threading.Thread(target=started.wait, daemon=True).start()  # a caller that lives longer should not have a zombie
    name = f"run={folder.path}"
    log.info(f"run {folder.path.name} runs (pid {started.pid}); follow it: python -m posttrain_verl.logs -f {name}")
    log.info(f"what it does: python -m posttrain_verl.status {name}; end it: python -m posttrain_verl.stop {name}")
    return 0


def run_beside(folder: RunFolder) -> None:
    """Run the supervisor beside this process, which is a program of the user's, and log what it prints until it has ended.

    The run ends where this process does. Ctrl-C here ends the run and is raised again; a second one ends it quickly. No handler
    of signals is installed, so that this works in any thread.
    """
    supervisor = subprocess.Popen(_command(folder, BESIDE_FLAG), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)  # fmt: skip
    assert supervisor.stdin is not None and supervisor.stdout is not None
    with supervisor, supervisor.stdin:
        interrupted: BaseException | None = None
        while True:
            try:
                for line in supervisor.stdout:
                    log.info(line.rstrip("\n"))
                supervisor.wait()
                break
            except BaseException as error:  # also what a handler of the log raises
                interrupted = interrupted or error
                supervisor.send_signal(signal.SIGINT)
    if interrupted is not None:
        raise interrupted


def _end_with_parent() -> None:
    """End the run when the program that launched it ends, also under nohup, where SIGHUP is ignored."""
    while os.read(0, 1):  # not `sys.stdin`, whose lock a thread may not hold when the interpreter ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    def work() -> int:
        with console.status_line():
            return EXIT_CODES.get(supervise_run(RunFolder(Path(sys.argv[1])), DETACHED_FLAG in sys.argv[2:]).state, 1)

    interrupts.treat_as_ctrl_c()
    if BESIDE_FLAG in sys.argv[2:]:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    code = exit_code(work)
    interrupts.ignore_signals()  # one that comes while the interpreter ends would change the exit code
    return code


def supervise_run(folder: RunFolder, detached: bool = False) -> Status:
    """Run a prepared folder until it is done, or fails by what a restart does not heal, or has used up its retries.

    Returns the last status. `posttrain.watch.retries` in plan.json says how often to retry. Where it is null, a `detached` run,
    which nobody looks at, is retried once. A folder that has attempts continues after them.
    """
    plan = folder.read_plan()
    settings = watch_settings(plan)
    retries = (settings or {}).get("retries")
    retries = (UNATTENDED_RETRIES if detached else 0) if retries is None else int(retries)
    variables = environment.process_variables(plan["hardware"], plan["local_model"])
    variables |= environment.loopback_variables(folder.read_settings())
    # The warm Python is not a process of the run. It outlives an attempt, and its variables do not name the run's metrics.
    with hold_folder(folder), interrupts.count_interrupts(), warm.started(dict(variables), folder.log, variables):
        second_starts = 1  # of a Ray that ended its driver: nothing was trained, so that also an attended run has it
        while True:
            attempt = folder.read_status().attempt  # 1 where there is no status yet
            watch = Watch(folder.events, settings, folder.read_settings())
            status = train_attempt(folder, variables, watch, attempt)
            if status.state != FAILED or not is_healed_by_restart(status):
                break
            if status.rule == RAY_START and second_starts:
                second_starts -= 1
                left = "starting Ray again"
            elif retries > 0:
                retries -= 1
                left = f"starting again; {retries} more {'retry is' if retries == 1 else 'retries are'} left"
            else:
                break
            watch.note("retry", status.last_step, "", status.why, left)
            log.info(f"failed: {status.why}; {left}")
            if complete := complete_run(folder, resume.prepare_attempt(folder).step):
                status = complete
                break
    log.info(closing_line(folder, status))
    return status


@contextmanager
def hold_folder(folder: RunFolder) -> Iterator[None]:
    """Clear what dead runs left, and keep every other launch out of the folder. Raises InputError where one has it."""
    record.clear_dead_runs()
    lock = record.folder_lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        problem = Problem(f"{folder.path} is run by another launch", "wait for it, or end it with posttrain_verl.stop")
        raise InputError("cannot resume", [problem]) from None
    try:
        known = record.read_record(folder)
        if known and known.is_supervised:  # by a launch whose cache, and so lock, is another
            raise InputError("cannot resume", [record.running_problem(folder, known)])
        yield
    finally:
        lock.release()


def train_attempt(folder: RunFolder, variables: dict[str, str], watch: Watch | None = None, attempt: int = 1) -> Status:
    """Run VeRL on the folder's config until it ends. Its log goes to log.txt, and each step is logged as a line.

    Returns the status, which is also in status.json. Ctrl-C ends the run's processes and counts as interrupted. A run fails where
    a rule of the watch stops it, and where its folder can no longer be written. Ray's own logs of a failed run go to its folder.
    """
    with (
        interrupts.count_interrupts() as noted,
        processes.temporary_folder() as temporary,
        folder.log.open("a+b") as file,
    ):
        output = Log(file)
        variables = {**variables, METRICS_VARIABLE: str(folder.attempt_metrics(attempt)),
                     progress.ACTIVITY_FILE: str(folder.activity_file), **environment.temporary_variables(temporary)}  # fmt: skip
        progress.delete_progress(folder.activity_file)
        folder.cluster_file.unlink(missing_ok=True)
        folder.stop_note.unlink(missing_ok=True)
        last_step = folder.read_status().last_step if attempt > 1 else None
        # The driver holds the other end of its standard input open no longer than this process lives.
        process = subprocess.Popen(
            [warm.python(variables), "-u", "-m", "posttrain_verl.run.driver", str(folder.path)], env={**os.environ, **variables},
            stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        status, began = folder.started(process.pid, attempt, last_step), boot_seconds()
        follower = _make_follower(folder, status, variables, temporary, watch or Watch(folder.events), output)
        event, seconds = None, STOP_SECONDS
        try:
            event = _follow_to_end(process, follower, noted)
            status.state = INTERRUPTED if noted.count else DONE if event is None and process.returncode == 0 else FAILED
            # Of a run that failed or is done there is none.
            status.why = (folder.read_stop() or noted.why) if noted.count else ""
            seconds = ALARM_STOP_SECONDS if event else STOP_SECONDS
        except OSError as error:  # the disk is full, or gone
            status.state, status.why = FAILED, f"the run folder cannot be written: {error}"
        finally:
            end_processes(process, follower, noted, seconds)
        follower.read_rest()
        if status.state == FAILED:
            keep_ray_logs(temporary, folder)
            with suppress(OSError):
                _explain_failure(status, event, follower, output.first_error(), process.returncode)
        status.ended, status.stage = status.started + boot_seconds() - began, ""
    try:
        folder.write_status(status)
        record.close_record(folder)
    except OSError as error:  # the record stays, and the next start writes what this one cannot
        log.info(f"status.json cannot be written: {error}")
    return status


def boot_seconds() -> float:
    """A clock that continues while the machine sleeps and that nobody sets. It measures how long a run takes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _make_follower(
    folder: RunFolder, status: Status, variables: dict[str, str], temporary: Path, watch: Watch, output: Log
) -> Follower:
    """What follows the process tree of the attempt; who belongs to it is written to the run's record."""
    assert status.pid is not None
    marker = f"{METRICS_VARIABLE}={variables[METRICS_VARIABLE]}"
    executable = warm.executable(variables)
    tree = ProcessTree(marker, status.pid, Path(executable).with_name(warm.FORKS) if executable else None)
    folders = [str(temporary)]
    if executable and not warm.executable():  # an outer warm Python is not this run's to clear away
        folders.append(str(Path(executable).parent))
    supervisor, driver = find_process(os.getpid()), find_process(status.pid)
    assert supervisor is not None
    known = record.Record(os.uname().nodename, processes.boot_id(), supervisor, [driver] if driver else [], folders)
    record.write_record(folder, known)
    return Follower(folder, status, tree, known, watch, output)


def _follow_to_end(process: subprocess.Popen[bytes], follower: Follower, noted: Interrupts) -> Event | None:
    """Follow until the process ends, or the watch or the user wants it to end."""
    while not noted.count:
        running = process.poll() is None
        event = follower.poll()
        if not running or event:
            return event
        time.sleep(POLL_SECONDS)
    return None


def end_processes(process: subprocess.Popen[bytes], follower: Follower, noted: Interrupts, seconds: float) -> None:
    """End the process tree: first with a signal and `seconds` of time, so that the driver stops its Ray, then by force.

    A second Ctrl-C ends the waiting.
    """
    tree = follower.process_tree

    def alive() -> list[Process]:
        return [one for one in tree.members.values() if one.is_alive]

    tree.look()
    follower.segments.look(tree.members, at_once=True)
    if process.poll() is None:  # else its number may be another's by now
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until and noted.count < 2:
        time.sleep(0.1)
    until = time.monotonic() + STOP_SECONDS
    # More than once: a process may have been starting while its parent was killed. What no signal reaches is left.
    while time.monotonic() < until:
        tree.look()
        follower.segments.look(tree.members, at_once=True)
        if not processes.kill_processes(alive()) and not tree.look() and not alive():
            break
    process.kill()
    process.wait()
    processes.unlink_unmapped(follower.segments.names, CLUSTER_SECONDS if os.environ.get("RAY_ADDRESS") else 0.0)


def keep_ray_logs(temporary: Path, folder: RunFolder) -> None:
    """Copy the logs of Ray's own processes (GCS, raylet, workers) into the run folder, if there was a local Ray."""
    for session in temporary.glob("ray/session_*"):
        if not session.is_symlink():
            with suppress(OSError):  # as many as the disk takes
                paths.copy_files(session / "logs", folder.path / "ray_logs")


def _explain_failure(status: Status, event: Event | None, follower: Follower, error: str, code: int | None) -> None:
    """Say why a run failed: what the watch saw, else the first error of the log."""
    if event is None:
        is_start = not status.why and not error and bool(code) and follower.is_starting_ray()
        said = f"Ray ended its driver while it started: {follower.last_line()}" if is_start else error
        status.why = status.why or said or f"VeRL ended without a message: {describe_exit(code)}"
        event = follower.ended(status.why, ray_state.mentions_lost_process(status.why) and not is_start)
        if event.rule != "dead":
            status.rule = RAY_START if is_start else status.rule
            return
    said = f"; the log's first error: {error}" if event.rule == "dead" and error and error not in event.line else ""
    status.why, status.rule = event.line + said, event.rule


def is_healed_by_restart(status: Status) -> bool:
    """Whether a restart may help a failed run: a process or node that was lost comes back, a wrong config stays wrong."""
    return status.rule in HEALED_BY_RESTART if status.rule else ray_state.mentions_lost_process(status.why)


def complete_run(folder: RunFolder, step: int) -> Status | None:
    """Write and return the status of a run whose last checkpoint is that of `step`; None where it has steps left.

    VeRL's SFT trainer would train one step too many from there.
    """
    total = folder.read_plan().get("total_steps")
    if total is None or step < total:
        return None
    status = folder.read_status()
    status.state, status.why, status.ended = DONE, "", status.ended or folder.last_sign_of_life()
    folder.write_status(status)
    return status


def closing_line(folder: RunFolder, status: Status) -> str:
    """The last line: how the run ended, and where to look."""
    if status.state == DONE:
        attempts = folder.read_attempts(status)
        took = f"{worked_seconds(attempts):.0f} s{f' of {len(attempts)} attempts' if len(attempts) > 1 else ''}"
        return f"done after {status.last_step} steps in {took}; checkpoints and metrics in {folder.path}"
    ended = f"{status.state}{f': {status.why}' if status.why else ''}; the log is {folder.log}"
    return ended if status.state == FAILED else f"{ended}; resume it: python -m posttrain_verl.resume run={folder.path}"


if __name__ == "__main__":
    sys.exit(main())
