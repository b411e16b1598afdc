"""A Ray cluster of this machine alone for `cluster=ray`, which listens on the loopback and asks for a token.

It is `ray start --head` on free ports and in a folder of its own, so that several heads, and other Rays of the user, stand
beside each other. Its record in the cache says by which processes it is ended.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain_verl import clusters, paths
from posttrain_verl.clusters import ray_job
from posttrain_verl.machine import devices, interrupts, processes
from posttrain_verl.machine.processes import Process, find_process
from posttrain_verl.run import environment
from posttrain_verl.run.folder import RUNNING, RunFolder
from posttrain_verl.run.output import last_lines
from posttrain_verl.terminal.problem import InputError, Problem, WorkFailed
from posttrain_verl.verbs import Head
from posttrain_verl.verl.stage import logical_cpus

HOST = "127.0.0.1"
USUAL_PORT = 8265  # of Ray's dashboard
START_SECONDS = 120.0
ASK_SECONDS = 20.0
JOB_SECONDS = 90.0  # for a job to end its run
STOP_SECONDS = 45.0  # Ray lets the work of a node end for up to 30 s
TRIES = 3  # as of a run's own Ray: on a busy machine Ray ends a node whose agents take more than 15 s to start


@dataclass(frozen=True)
class HeadRecord:
    """A head that runs: the processes are the verb and `ray start`, and `folder` holds Ray's temporary files."""

    port: int
    boot: str
    supervisor: Process
    ray: Process
    folder: str

    @property
    def alive(self) -> list[Process]:
        return [one for one in (self.supervisor, self.ray) if one.is_alive] if self.boot == processes.boot_id() else []


def choose_port(asked: int | None) -> int:
    """The dashboard's port: that of the user, else Ray's usual one, else a free one. Raises InputError where it is taken."""
    port = asked or USUAL_PORT
    if is_free(port):
        return port
    if asked is None:
        return free_port()
    remedy = "choose another, or leave port= out: a free one is taken then"
    if port in {head.port for head in running_heads()}:
        remedy = f"use the head that runs there, or end it: python -m posttrain_verl.head stop={port}"
    raise InputError(Head.TITLE, [Problem(f"port={port} is in use", remedy)])


def is_free(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A free port from where the kernel takes none for connections in the meantime."""
    return next(port for port in iter(lambda: random.randrange(20_000, 32_000), None) if is_free(port))


def start_detached(port: int, gpus: int | None) -> int:
    """Start this verb again in a session of its own, wait until the head is up, and return the exit code."""
    words = [f"port={port}", *([f"gpus={gpus}"] if gpus else [])]
    with processes.temporary_folder("head-") as place:
        printed = place / "printed.txt"
        with printed.open("wb") as file:
            process = subprocess.Popen([sys.executable, "-m", "posttrain_verl.head", *words], stdout=file,
                                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        while process.poll() is None and not any(head.supervisor.pid == process.pid for head in running_heads()):
            time.sleep(0.2)
        if process.poll() is not None:
            print(printed.read_text(errors="replace").rstrip(), file=sys.stderr)
            return process.returncode
    print(usage_lines(port))
    return 0


def serve_head(port: int, gpus: int | None) -> int:
    """Start a head and stay until it is ended. Returns 130 after Ctrl-C, and 0 after `stop=`."""
    with (
        interrupts.count_interrupts() as noted,
        processes.temporary_folder("head-") as folder,
        started_ray(port, gpus, folder) as process,
    ):
        print(f"{usage_lines(port)}\n(Ctrl-C ends it)", flush=True)
        while process.poll() is None and not noted.count:
            time.sleep(0.2)
        if not noted.count:
            raise WorkFailed(f"the head ended by itself:\n{last_words(folder)}")
        end_jobs(port, "with the head")
    return 130 if noted.why == "Ctrl-C" else 0


@contextmanager
def started_ray(port: int, gpus: int | None, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`ray start --block`, up and recorded; ended after. Raises WorkFailed where it does not come up."""
    file = record_file(port)
    for _ in range(TRIES):
        with (folder / "ray.txt").open("ab") as printed:
            process = subprocess.Popen(ray_command(port, gpus, folder), env=head_environment(gpus), stdout=printed,
                                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        try:
            if not is_up(process, port):
                continue
            known, own = find_process(process.pid), find_process(os.getpid())
            assert known and own
            head = HeadRecord(port, processes.boot_id(), own, known, str(folder))
            paths.write_atomically(file, json.dumps(asdict(head)) + "\n")
            yield process
            return
        finally:
            end_ray(process)
            file.unlink(missing_ok=True)
    raise WorkFailed(f"Ray did not come up at {HOST}:{port}, tried {TRIES} times:\n{last_words(folder)}")


def ray_command(port: int, gpus: int | None, folder: Path) -> list[str]:
    """The command of the head. Its dashboard has `port`; the kernel or we choose all others.

    Ray opens the folder of its temporary files to everyone, so it gets one inside `folder`, which is this user's alone. Its name
    is short, since a socket's path has at most 107 characters.
    """
    found = devices.detect_machine()
    count = gpus or (1 if found.name == "cpu" else found.devices)
    cpus = max(os.cpu_count() or 1, logical_cpus(count))  # which only count processes
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0", f"--dashboard-host={HOST}",
            f"--dashboard-port={port}", f"--ray-client-server-port={free_port()}", "--dashboard-agent-listen-port=0",
            "--min-worker-port=0", "--max-worker-port=0", f"--num-gpus={count}", f"--num-cpus={cpus}",
            f"--temp-dir={folder / 'r'}", "--disable-usage-stats"]  # fmt: skip


def head_environment(gpus: int | None) -> dict[str, str]:
    """The variables of the head. A job inherits them, so that `python` there is the Python of this verb."""
    backend = devices.detect_machine().name
    ours = environment.process_variables(backend, local_model=False).items()
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    settings = {name: value for name, value in ours if name.startswith("RAY_") or name == "CUDA_VISIBLE_DEVICES"}
    return kept | settings | environment.LOOPBACK_ONLY | {"PATH": programs}


def is_up(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the head answers; false where it ended, or takes longer than START_SECONDS."""
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        with suppress(InputError):
            ray_job.probe_dashboard(f"http://{HOST}:{port}")
            return True
        time.sleep(0.2)
    return False


def end_ray(process: subprocess.Popen[bytes]) -> None:
    """End `ray start --block`, which ends its node's processes, and by force what is left in its session."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_words(folder: Path) -> str:
    return "\n".join(last_lines(folder / "ray.txt", 5))


def usage_lines(port: int) -> str:
    return "\n".join([
        f"a Ray head runs at http://{HOST}:{port}, for processes of this machine that have the token",
        f"use it: python -m posttrain_verl.launch recipe=... cluster=ray address=http://{HOST}:{port}",
        f"end it: python -m posttrain_verl.head stop={port}",
    ])  # fmt: skip


def record_file(port: int) -> Path:
    return paths.in_cache("heads") / f"{port}.json"


def running_heads() -> list[HeadRecord]:
    """The heads of this user and this cache that run on this machine."""
    found = []
    for file in paths.in_cache("heads").glob("[0-9]*.json"):
        with suppress(OSError, ValueError, TypeError, KeyError):  # being deleted, or cut short
            facts = json.loads(file.read_text())
            head = HeadRecord(**facts | {name: Process(**facts[name]) for name in ("supervisor", "ray")})
            found += [head] if head.alive else []
    return found


def clear_dead_heads() -> None:
    """Delete what heads left that were killed: their folders and their records."""
    alive = {record_file(head.port) for head in running_heads()}
    for file in set(paths.in_cache("heads").glob("[0-9]*.json")) - alive:
        with suppress(OSError, ValueError, TypeError, KeyError):
            folder = Path(json.loads(file.read_text())["folder"])
            if processes.is_temporary(folder):
                shutil.rmtree(folder, ignore_errors=True)
            file.unlink()


def end_jobs(port: int, how: str) -> None:
    """End the jobs that run on the head at `port`, as Ctrl-C would, and name them. `how` is the reason that their runs show.

    A run folder of this machine gets its last status, for which nobody could be asked later. A head that does not answer is
    ended without this.
    """
    address = f"http://{HOST}:{port}"
    with suppress(InputError, RuntimeError, OSError):
        client, running = running_jobs(address)
        for job, folder in running.items():
            print(f"stopping job {job}", flush=True)
            if folder:
                folder.note_stop(how)
            client.stop_job(job)
        for job, folder in running.items():
            ray_job.RayJob(address, job, "").wait(JOB_SECONDS)
            if folder and (jobs := clusters.jobs_of(folder.read_status())):
                jobs.refresh_status(folder)


def running_jobs(address: str) -> tuple[Any, dict[str, RunFolder | None]]:
    """A client of the head, and its jobs that have not ended, each with its run folder if this machine has it.

    There are none where the head does not answer within ASK_SECONDS: Ray's client itself would wait for ever.
    """
    found: list[tuple[Any, dict[str, RunFolder | None]]] = []

    def ask() -> None:
        with suppress(Exception):  # what answers may be something else
            client = ray_job.connect_head(address)
            jobs = [each for each in client.list_jobs() if each.submission_id]
            running = [each for each in jobs if ray_job.STATES[str(each.status.value)] == RUNNING]
            found.append((client, {str(each.submission_id): _folder_here(each.metadata or {}) for each in running}))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ASK_SECONDS)
    return found[0] if found else (None, {})


def _folder_here(metadata: dict[str, str]) -> RunFolder | None:
    """The run folder on this machine that a job was submitted with."""
    folder = RunFolder(Path(metadata.get("folder_there", "")))
    is_here = metadata.get("submitted_from") == os.uname().nodename and folder.status.is_file()
    return folder if is_here else None


def stop_head(port: int) -> int:
    """End the head at `port` with its jobs, and nothing else. Raises InputError where there is none."""
    clear_dead_heads()
    heads = {head.port: head for head in running_heads()}
    if port not in heads:
        known = ", ".join(map(str, sorted(heads))) or "none"
        raise InputError("no head to end", [Problem(f"no head of `head` runs at port {port}", f"there are: {known}")])
    head = heads[port]
    end_jobs(port, f"with `head stop={port}`")
    for one in head.alive[:1]:  # the verb, which ends its Ray; or the Ray alone, where the verb was killed
        with suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGTERM)
    until = time.monotonic() + STOP_SECONDS + 10
    while head.alive and time.monotonic() < until:
        time.sleep(0.2)
    with suppress(ProcessLookupError):
        if head.ray.is_alive:
            os.killpg(head.ray.pid, signal.SIGKILL)
    if processes.is_temporary(Path(head.folder)):
        shutil.rmtree(head.folder, ignore_errors=True)
    record_file(port).unlink(missing_ok=True)
    print(f"ended the head at http://{HOST}:{port}")
    return int(bool(head.alive))
