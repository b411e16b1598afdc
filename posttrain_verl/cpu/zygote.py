"""A warm Python: one process imports VeRL, vLLM and Ray once, and every further process of the run is a fork of it.

A VeRL run is a dozen Python processes, each of which spends 6 to 14 CPU seconds on the same imports: on two cores that is
most of a short run. `serve` holds the modules; `warm_python.py`, used as the `python` of Ray's workers and of vLLM's
spawned processes, asks it for a fork with the caller's arguments, environment, folder and file descriptors, and stands in
for the fork: it passes signals on and ends with its exit code. No fork shares a thread, a socket or a device with another.

Only for the CPU backend on this machine: a process that has touched CUDA cannot be forked.
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from posttrain_verl.cpu.forked import run_as_python, show_as, take_descriptors, title_of
from posttrain_verl.run import leftovers
from posttrain_verl.run.processes import process

WITHOUT_RAY = (
    "torch.distributed.fsdp",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.llama.modeling_llama",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.entrypoints.openai.api_server",
    "peft",
    "tensordict",
    "torchdata.stateful_dataloader",
    "accelerate",
    "datasets",
    "tensorboard",
    "wandb",
)
WITH_RAY = (
    "ray._private.workers.default_worker",
    "transfer_queue",
    "verl.trainer.main_ppo",
    "verl.trainer.ppo.v1",
    "verl.trainer.sft_trainer_ray",
    "verl.workers.engine_workers",
    "verl.workers.rollout.vllm_rollout.vllm_async_server",
    "verl.experimental.agent_loop",
    "verl.experimental.reward_loop",
)
# What Ray reads when it is imported, never again (2.60): the forks of one raylet and job need a zygote of their own.
RAY_VARIABLES = ("RAY_RAYLET_PID", "RAY_JOB_ID")
MAX_MESSAGE = 1 << 20  # bytes: arguments and environment of one process
MAX_FDS = 64
RAYLET_POLL_SECONDS = 2.0
# What `ps` and `top` show.
TITLE = ("posttrain_verl: warm Python", "warm-Python")
TITLE_WITH_RAY = ("posttrain_verl: warm Python with Ray", "warm-Python+Ray")


@contextmanager
def warm(variables: dict[str, str], log: IO[bytes]) -> Iterator[Path]:
    """Start a zygote with these variables and yield its `python`, an executable file; end it and its forks after.

    The zygote imports while the caller goes on; who needs a fork earlier waits for it. What the imports print goes to `log`.
    """
    with leftovers.temporary_folder("zygote-") as folder, socket.socket(socket.AF_UNIX) as listener:
        address = folder / "socket"
        listener.bind(str(address))
        listener.listen(64)  # bound here: a client that comes while the zygote still imports waits in the queue
        code = f"from posttrain_verl.cpu.zygote import main; main({listener.fileno()})"
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, env={**os.environ, **variables, "TMPDIR": str(folder)},
            stdout=log, stderr=log, pass_fds=[listener.fileno()], start_new_session=True,
        )  # fmt: skip
        pid_file(address).write_text(str(process.pid))
        try:
            yield write_python(folder, address)
        finally:
            assert process.stdin is not None
            process.stdin.close()  # the zygote ends, with its forks, when its standard input does
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            process.kill()
            process.wait()


def write_python(folder: Path, address: Path) -> Path:
    """The executable that stands for `python`: the client on a bare interpreter, which starts in milliseconds."""
    python = folder / "python"
    client = Path(__file__).with_name("warm_python.py")
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{client}" "{sys.executable}" "{address}" "$@"\n')
    python.chmod(0o755)
    return python


@dataclass(frozen=True)
class Fork:
    """The socket of its client, and the `Process.id` of the fork and of the client that it `stands_for`."""

    client: socket.socket
    id: str
    stands_for: str


class Zygote:
    """The server: forks on request, watches each fork and the client that stands for it."""

    def __init__(self, listener: socket.socket, ray_loaded: bool = False):
        self._listener = listener
        self._address = Path(listener.getsockname())
        self._ray_loaded = ray_loaded
        self._by_raylet: dict[str, tuple[int, str]] = {}  # raylet and job -> pid and address of their zygote
        self._zygotes = 0
        self._forks: dict[int, Fork] = {}  # by its pid
        self._wakeup_read, self._wakeup_write = os.pipe()
        forks_folder(self._address).mkdir(exist_ok=True)
        exits_folder(self._address).mkdir(exist_ok=True)

    def serve(self) -> None:
        """Answer until standard input closes or the raylet served is gone, then end every fork."""
        os.set_blocking(self._wakeup_write, False)
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            watched: list[Any] = [0, self._wakeup_read, self._listener, *self._sockets()]
            if self._ray_loaded and not has_raylet(os.environ):
                self._end_all()
                return self._wait_for_all()
            for ready in select.select(watched, [], [], RAYLET_POLL_SECONDS if self._ray_loaded else None)[0]:
                if ready == 0:
                    return self._end_all()
                if ready == self._wakeup_read:
                    os.read(self._wakeup_read, 4096)
                    self._reap()
                elif ready is self._listener:
                    self._accept()
                else:
                    self._hear(ready)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        request, descriptors = receive(client)
        if request and len(descriptors) > len(request["descriptors"]):  # passed on: the first one is the client itself
            client.close()
            client = socket.socket(fileno=descriptors.pop(0))
        key = "-".join(request["environment"].get(name, "") for name in RAY_VARIABLES) if request else ""
        if request is None:
            client.close()
        elif self._ray_loaded or key == "-":
            self._fork(request, descriptors, client)
        elif has_raylet(request["environment"]):
            self._pass_on(key, request, descriptors, client)
        else:  # what is asked for on the way down of a Ray is wanted by nobody
            client.close()
        for descriptor in descriptors:
            os.close(descriptor)

    def _fork(self, request: dict, descriptors: list[int], client: socket.socket) -> None:
        pid = os.fork()
        if pid == 0:
            self._become(request, descriptors, client)  # never returns
        fork = self._forks[pid] = Fork(client, id_of(pid), id_of(peer_of(client)))
        self._record(fork).write_text(fork.id)

    def _pass_on(self, key: str, request: dict, descriptors: list[int], client: socket.socket) -> None:
        """Let the zygote of this raylet and job answer; the client's own socket goes along with its descriptors."""
        if key not in self._by_raylet:
            self._by_raylet[key] = self._start_with_ray(request["environment"], [client.fileno(), *descriptors])
        message = json.dumps(request).encode() + b"\n"
        # Its zygote may have ended since; the client then sees its own socket close.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as inner, suppress(ConnectionError):
            inner.connect(self._by_raylet[key][1])
            sent = socket.send_fds(inner, [message], [client.fileno(), *descriptors])
            if sent < len(message):  # sendall writes even when nothing is left, to a peer that may be content and gone
                inner.sendall(message[sent:])
        client.close()

    def _start_with_ray(self, environment: dict[str, str], first: list[int]) -> tuple[int, str]:
        """Fork a zygote that imports Ray and VeRL under the variables of one raylet; its pid, and where it listens.

        It gets the `first` client's descriptors like those of any other, by its socket: a copy would stay open for ever.
        """
        address = f"{self._address}.{self._zygotes}"
        self._zygotes += 1
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(address)
        listener.listen(64)
        pid = os.fork()
        if pid == 0:
            self._become_one_with_ray(listener, environment, first)  # never returns
        listener.close()
        return pid, address

    def _become_one_with_ray(self, listener: socket.socket, environment: dict[str, str], first: list[int]) -> None:
        os.setpgid(0, 0)
        show_as(*TITLE_WITH_RAY)
        for one in [self._listener, *self._sockets()]:
            one.close()
        for descriptor in first:
            os.close(descriptor)
        os.environ.update({name: value for name, value in environment.items() if name.startswith("RAY_")})
        preload(WITH_RAY)
        let_ray_show_titles()
        Zygote(listener, ray_loaded=True).serve()
        os._exit(0)

    def _hear(self, client: socket.socket) -> None:
        """A signal to pass on, or the end of the client: then its fork ends too."""
        pid = next((pid for pid, fork in self._forks.items() if fork.client is client), None)
        if pid is None:
            return
        data = b""
        with suppress(ConnectionError):
            data = client.recv(64)
        number = int(data.split()[-1]) if data else signal.SIGKILL
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._ended(pid, os.waitstatus_to_exitcode(status))

    def _ended(self, pid: int, code: int) -> None:
        """Record how a fork ended, and then tell its client: who sees the client's end finds the record."""
        fork = self._forks.pop(pid, None)
        if fork is None:  # the zygote of a raylet that is gone
            self._by_raylet = {key: one for key, one in self._by_raylet.items() if one[0] != pid}
            return
        for name in (fork.id, fork.stands_for):
            self._write_exit(name, code)
        self._record(fork).unlink(missing_ok=True)
        with suppress(OSError):
            fork.client.sendall(f"exit {code}\n".encode())
        fork.client.close()

    def _write_exit(self, name: str, code: int) -> None:
        half = self._address.with_name(f"exit.{os.getpid()}")  # a name of its own: the zygotes share the folder
        with suppress(OSError):  # a full disk must not end the run
            half.write_text(str(code))
            half.replace(exits_folder(self._address) / name)

    def _record(self, fork: Fork) -> Path:
        """The file that says, for whoever watches a run, which fork a client stands for."""
        return forks_folder(self._address) / fork.stands_for

    def _sockets(self) -> list[socket.socket]:
        return [fork.client for fork in self._forks.values()]

    def _end_all(self) -> None:
        for pid in self._forks:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _wait_for_all(self) -> None:
        """Record the last exits of a run whose zygotes' owner goes on; where that ends, nobody is left to read them."""
        for pid in list(self._forks):
            self._ended(pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def _become(self, request: dict, descriptors: list[int], client: socket.socket) -> None:
        """In the fork: take the caller's place, and leave nothing of the server behind."""
        os.setpgid(0, 0)  # Ray kills the whole process group of a worker that ended
        show_as(*title_of(request["arguments"]))
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for one in [client, self._listener, *self._sockets()]:
            one.close()
        os.close(self._wakeup_read)
        os.close(self._wakeup_write)
        take_descriptors(descriptors, request["descriptors"])
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        tempfile.tempdir = None  # found under the zygote's variables
        run_as_python(request["arguments"], request["python"])


def forks_folder(beside: Path) -> Path:
    """Where a zygote records its forks: a file named by the client's `Process.id`, with the fork's in it."""
    return beside.with_name("forks")


def peer_of(client: socket.socket) -> int:
    """The pid of the process at the other end."""
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[0])


def id_of(pid: int) -> str:
    """The `Process.id` of a fork, or of a client that may have left already."""
    found = process(pid)
    return found.id if found else f"{pid}.gone"


def pid_file(beside: Path) -> Path:
    """Where the pid of the zygote stands: it is busy with imports while a run that starts waits for its first fork."""
    return beside.with_name("pid")


def exits_folder(beside: Path) -> Path:
    """Where a zygote records how its forks ended: a file named by the `Process.id` of the fork, and one by that of its client.

    In it is the exit code, negative for a signal.
    """
    return beside.with_name("exits")


def has_raylet(environment: Mapping[str, str]) -> bool:
    """Whether the raylet that these variables name is alive; true where they name none."""
    return Path("/proc", environment.get("RAY_RAYLET_PID", "self")).exists()


def receive(client: socket.socket) -> tuple[dict | None, list[int]]:
    """One request with its file descriptors; None where the client left before it was whole."""
    descriptors, data = array.array("i"), b""
    while not data.endswith(b"\n"):
        try:
            part, ancillary, _, _ = client.recvmsg(MAX_MESSAGE, socket.CMSG_SPACE(MAX_FDS * descriptors.itemsize))
        except ConnectionError:
            return None, list(descriptors)
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        if not part:
            return None, list(descriptors)
        data += part
    return json.loads(data), list(descriptors)


def preload(names: tuple[str, ...]) -> None:
    """Import what the forks need. A module that does not import is left to whoever needs it, with its own error."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"zygote: {name} is not preloaded: {error}", file=sys.stderr)
    gc.collect()
    gc.freeze()  # keeps the collector from copying shared pages into every fork


@contextmanager
def without_ray() -> Iterator[None]:
    """Make `import ray` fail, as where it is not installed: vLLM imports it if it is there and needs it on GPU clusters only."""
    sys.modules["ray"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["ray"]


def let_ray_show_titles() -> None:
    """Ray (2.60) has a copy of setproctitle, which finds no command line that the package has written to: one must do both."""
    import setproctitle

    if raylet := sys.modules.get("ray._raylet"):
        raylet.setproctitle = setproctitle.setproctitle  # type: ignore[attr-defined]
        raylet.getproctitle = setproctitle.getproctitle  # type: ignore[attr-defined]


def main(listener: int, names: tuple[str, ...] = WITHOUT_RAY) -> None:
    """The zygote's process, which imports the named modules; `listener` is the descriptor of its bound socket."""
    show_as(*TITLE)
    with without_ray():
        preload(names)
    Zygote(socket.socket(fileno=listener)).serve()
    os._exit(0)  # nothing to finish, and the preloaded extensions complain about their own leaks when finalised
