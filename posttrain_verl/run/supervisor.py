"""Starts the process that trains, follows it by its files, and says how it ended."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from posttrain_verl.run import environment, leftovers
from posttrain_verl.run.folder import DONE, FAILED, INTERRUPTED, RunFolder, Status
from posttrain_verl.run.metrics import MetricsTail, step_line

POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 20.0
STOP_SECONDS = 15.0
CLUSTER_SECONDS = 5.0  # a cluster that goes on ends the workers of a run in its own time

_ACTOR_PREFIX = re.compile(r"\x1b\[\d+m|^\([^)]* pid=\d+[^)]*\)\s*")
_ERROR = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Killed)(?:\([\w.]+\))?: .+")


def train(folder: RunFolder, variables: dict[str, str], report: Callable[[str], None]) -> Status:
    """Run VeRL on the folder's config until it ends; the log goes to log.txt, a line a step to `report`.

    Returns the status, which is also in status.json. Ctrl-C ends the run's processes and is reported as interrupted.
    Nothing of the run stays but its folder; of a failed one Ray's own logs go there, too.
    """
    with leftovers.temporary_folder() as temporary:
        process = _start(folder, {**variables, **environment.of_temporary(temporary)})
        status = folder.started(process.pid)
        try:
            _follow(process, folder, status, report)
            status.state = DONE if process.returncode == 0 else FAILED
        except KeyboardInterrupt:
            status.state, status.why = INTERRUPTED, "interrupted"
        finally:
            end(process)
            leftovers.unlink_segments(status.started, CLUSTER_SECONDS if os.environ.get("RAY_ADDRESS") else 0.0)
        if status.state == FAILED:
            status.why = first_error(folder.log) or f"VeRL ended with exit code {process.returncode}"
            keep_ray_logs(temporary, folder)
    status.ended = time.time()
    folder.write_status(status)
    return status


def _start(folder: RunFolder, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    python = variables.get(environment.WARM_PYTHON, environment.python())
    command = [python, "-u", "-m", "posttrain_verl.run.driver", str(folder.path)]
    with folder.log.open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **variables}, start_new_session=True,
        )  # fmt: skip


def _follow(process: subprocess.Popen[bytes], folder: RunFolder, status: Status, report: Callable[[str], None]) -> None:
    tail, last_news = MetricsTail(folder.metrics), time.monotonic()
    while True:
        running = process.poll() is None
        for step, metrics in tail.read():
            report(step_line(step, metrics))
            last_news = time.monotonic()
            status.last_step = step
            folder.write_status(status)
        if not running:
            return
        if time.monotonic() - last_news > HEARTBEAT_SECONDS:
            last_news = time.monotonic()
            report(f"  {time.time() - status.started:.0f} s: {_activity(status)}")
        time.sleep(POLL_SECONDS)


def _activity(status: Status) -> str:
    if status.last_step is None:
        return "alive, starting (Ray, model, vLLM)"
    return f"alive, after step {status.last_step}"


def end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all it started: politely, so that it stops its Ray, then by force."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=STOP_SECONDS)
    leftovers.kill_session(process.pid)
    process.wait()


def keep_ray_logs(temporary: Path, folder: RunFolder) -> None:
    """Copy the logs of Ray's own processes (GCS, raylet, workers) into the run folder, if there was a local Ray."""
    for session in temporary.glob("ray/session_*"):
        if not session.is_symlink():
            shutil.copytree(session / "logs", folder.path / "ray_logs", dirs_exist_ok=True, ignore=_not_files)


def _not_files(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if not (Path(folder, name).is_file() or Path(folder, name).is_dir())}


def first_error(log: Path) -> str:
    """The first exception a log names, without Ray's prefixes: later ones are mostly its echo in other actors.

    Ray's own wrapper of an exception (RayTaskError) comes before the exception, and counts where that is missing.
    """
    wrapper = ""
    with log.open(errors="replace") as lines:
        for line in lines:
            text = _ACTOR_PREFIX.sub("", _ACTOR_PREFIX.sub("", line)).strip()
            if _ERROR.match(text) and "RayTaskError" not in text:
                return text
            wrapper = wrapper or (text if _ERROR.match(text) else "")
    return wrapper
