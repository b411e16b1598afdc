"""The warm Python: one process imports VeRL, vLLM and Ray once, and every further process of a run is a fork of it.

A VeRL run is a dozen Python processes. Each spends 6 to 14 CPU seconds on the same imports, which on two cores is most of a
short run. The parts of this file stand in the order in which they act:

1. `started` starts the warm Python for a run, and POSTTRAIN_WARM_PYTHON=0 prevents it. `python` and `executable` name
   what to start in its place.
2. A caller starts the stand-in instead of `python`. It asks for a fork with its own arguments, environment, folder and file
   descriptors. Then it passes signals on, and ends with the exit code of the fork.
3. `Zygote` is the server inside the warm Python. It forks, and records which fork a stand-in stands for and how each ended.
4. `run_as_python` turns a fork into the requested process.

It serves the CPU backend on one machine only, because a process that used CUDA cannot be forked. A zygote never starts a thread
or opens a device, so its forks share none. docs/warm_python.md is the page for users.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import inspect
import json
import multiprocessing
import os
import random
import re
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain_verl.machine import processes
from posttrain_verl.machine.processes import find_process

SWITCH = "POSTTRAIN_WARM_PYTHON"  # "0" turns it off; the path of a warm Python's executable shares that one
FORKS, EXITS, PID = "forks", "exits", "pid"  # the files beside its socket, for whoever watches a run

MODULES = (
    "torch.distributed.fsdp", "transformers.models.qwen2.modeling_qwen2", "transformers.models.llama.modeling_llama",
    "vllm.v1.engine.core", "vllm.v1.worker.cpu_worker", "vllm.entrypoints.openai.api_server", "peft", "tensordict",
    "torchdata.stateful_dataloader", "accelerate", "datasets", "tensorboard", "wandb",
)  # fmt: skip
RAY_MODULES = (
    "ray._private.workers.default_worker", "transfer_queue", "verl.trainer.main_ppo", "verl.trainer.ppo.v1",
    "verl.trainer.sft_trainer_ray", "verl.workers.engine_workers", "verl.workers.rollout.vllm_rollout.vllm_async_server",
    "verl.experimental.agent_loop", "verl.experimental.reward_loop",
)  # fmt: skip
# Ray (2.60) reads these only when it is imported, so the forks of one raylet and job need their own zygote.
RAY_VARIABLES = ("RAY_RAYLET_PID", "RAY_JOB_ID")


# 1. The switch, and the start.


def executable(variables: Mapping[str, str] | None = None) -> str | None:
    """The warm Python that `started` named in these variables or in this process's; None without one."""
    value = (variables or {}).get(SWITCH) or os.environ.get(SWITCH, "")
    return value if os.sep in value else None


def python(variables: Mapping[str, str] | None = None) -> str:
    """The interpreter for the processes of a run: the warm one if it was started, else this one."""
    return executable(variables) or sys.executable


@contextmanager
def started(variables: dict[str, str], log: Path, named_in: MutableMapping[str, str]) -> Iterator[None]:
    """Start a warm Python with these variables, name its executable in `named_in`, and end it and its forks after.

    Nothing starts where the switch is off, where an outer warm Python is shared, outside the CPU backend, or on the user's
    own cluster. The zygote imports while the caller continues, and early requests wait. Its output goes to `log`.
    """
    can_fork = variables.get("VERL_PLATFORM") == "cpu" and not os.environ.get("RAY_ADDRESS")
    if not can_fork or executable() or os.environ.get(SWITCH) in ("0", ""):
        yield
        return
    with processes.temporary_folder("zygote-") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)  # bound here: a stand-in that comes while the zygote still imports waits in the queue
        code = f"from posttrain_verl.cpu import warm; warm.serve({listener.fileno()})"
        with log.open("ab") as out:
            zygote = subprocess.Popen(
                [sys.executable, "-c", code], env={**os.environ, **variables, "TMPDIR": str(folder)}, stdin=subprocess.PIPE,
                stdout=out, stderr=out, pass_fds=[listener.fileno()], start_new_session=True,
            )  # fmt: skip
        (folder / PID).write_text(str(zygote.pid))  # for the watch: a zygote that still imports is a sign of life
        named_in[SWITCH] = str(write_executable(folder))
        try:
            yield
        finally:
            del named_in[SWITCH]
            assert zygote.stdin is not None
            zygote.stdin.close()  # the zygote ends, with its forks, when its standard input does
            with suppress(subprocess.TimeoutExpired):
                zygote.wait(timeout=10)
            zygote.kill()
            zygote.wait()


def write_executable(folder: Path) -> Path:
    """The file that stands for `python`: the stand-in on a bare interpreter, which starts in milliseconds."""
    program = folder / "stand_in.py"
    functions = [inspect.getsource(one) for one in (send, stand_in)]
    program.write_text("\n\n".join(["import json, os, signal, socket, sys", *functions, "sys.exit(stand_in())\n"]))
    file = folder / "python"
    command = f'"{sys.executable}" -I -S "{program}" "{sys.executable}" "{folder / "socket"}"'
    file.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    file.chmod(0o755)
    return file


# 2. The stand-in. `write_executable` copies its source to a separate file, because a bare interpreter has no packages.


def stand_in() -> int:
    """Stand for `python ARGUMENTS`: `stand_in.py PYTHON SOCKET ARGUMENTS`. Without a zygote that answers, become PYTHON.

    Returns the exit code of the fork. A signal that ended the fork ends this process, too.
    """
    python, address, *arguments = sys.argv[1:]
    listed = os.listdir("/proc/self/fd")  # with the descriptor of the listing itself, which is closed by now
    descriptors = sorted(int(name) for name in listed if os.path.lexists(f"/proc/self/fd/{name}"))
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.connect(address)
    except OSError:
        os.execv(python, [python, *arguments])
    try:
        with open("/proc/self/comm", "w") as file:
            file.write("python-stand-in")  # for `top`; `ps` shows the whole command
    except OSError:  # a /proc that cannot be written to
        pass
    request = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "descriptors": descriptors,
        "python": os.path.join(os.path.dirname(address), "python"),
    }
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda received, _: server.sendall(b"%d " % received))
    send(server, request, descriptors)
    data = b""
    while part := server.recv(64):
        data += part
    code = int(data or 1)
    if code < 0:
        if -code != signal.SIGKILL:  # its action cannot be set, and need not be
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def send(server: socket.socket, request: dict, descriptors: list[int]) -> None:
    """Ask for a fork. `receive` is the other end."""
    message = json.dumps(request).encode() + b"\n"
    sent = socket.send_fds(server, [message], descriptors)
    if sent < len(message):  # sendall writes even when nothing is left, to a peer that may have left
        server.sendall(message[sent:])


# 3. The server.


def serve(listener: int, modules: tuple[str, ...] = MODULES) -> None:
    """Act as the zygote: import the modules and answer until the owner ends. `listener` is the descriptor of its socket."""
    show_as("posttrain_verl: warm Python", "warm-Python")
    # vLLM imports Ray if it is installed, and needs it on GPU clusters only. RAY_VARIABLES says why it must not be imported yet.
    sys.modules["ray"] = None  # type: ignore[assignment]
    preload(modules)
    del sys.modules["ray"]
    Zygote(socket.socket(fileno=listener)).serve()
    os._exit(0)  # nothing to finish, and the preloaded extensions complain about their own leaks when finalised


def preload(modules: tuple[str, ...]) -> None:
    """Import what the forks need. A module that fails is skipped, and a fork that needs it gets the error."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"zygote: {name} is not preloaded: {error}", file=sys.stderr)
    gc.collect()
    gc.freeze()  # keeps the collector from copying shared pages into every fork


def show_as(title: str, name: str) -> None:
    """Set what `ps` shows of this process, and the name of at most 15 characters that `top` shows.

    The name has no spaces, because some programs split /proc/PID/stat at its spaces.
    setproctitle finds the command line through the first variable of the environment, which lies behind it, and only in its
    first call. So the zygote must make that call when it starts, before a fork deletes its variables and sets a title.
    """
    import setproctitle

    setproctitle.setproctitle(title)
    setproctitle.setthreadtitle(name)


@dataclass(frozen=True)
class Fork:
    """The socket of its stand-in, and the `Process.id` of the fork and of the stand-in."""

    client: socket.socket
    id: str
    stands_for: str


class Zygote:
    """Forks on request, and watches each fork and its client, which is the stand-in.

    A zygote that loaded Ray serves one raylet and job. The first zygote starts such zygotes and passes requests on to them.
    """

    def __init__(self, listener: socket.socket, ray_loaded: bool = False):
        self._listener = listener
        self._folder = Path(listener.getsockname()).parent
        self._ray_loaded = ray_loaded
        self._by_raylet: dict[str, tuple[int, str]] = {}  # raylet and job -> pid and address of their zygote
        self._zygotes = 0
        self._forks: dict[int, Fork] = {}  # by its pid
        self._wakeup_read, self._wakeup_write = os.pipe()
        for name in (FORKS, EXITS):
            (self._folder / name).mkdir(exist_ok=True)

    def serve(self) -> None:
        """Answer until standard input closes or the raylet served is gone, then end every fork."""
        os.set_blocking(self._wakeup_write, False)
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while not self._ray_loaded or has_raylet(os.environ):
            watched: list[Any] = [0, self._wakeup_read, self._listener, *self._clients()]
            for ready in select.select(watched, [], [], 2.0 if self._ray_loaded else None)[0]:  # seconds
                if ready == 0:
                    self._kill_all()
                    return
                if ready == self._wakeup_read:
                    os.read(self._wakeup_read, 4096)
                    with suppress(ChildProcessError):
                        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                            self._record_end(*ended)
                elif ready is self._listener:
                    self._accept()
                else:
                    self._pass_signal(ready)
        self._kill_all()
        for pid in list(self._forks):  # the owner of the zygotes reads how the last ones ended
            self._record_end(pid, os.waitpid(pid, 0)[1])

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        request, descriptors = receive(client)
        if request and len(descriptors) > len(request["descriptors"]):  # passed on: the first one is the client itself
            client.close()
            client = socket.socket(fileno=descriptors.pop(0))
        raylet = "-".join(request["environment"].get(name, "") for name in RAY_VARIABLES) if request else ""
        if request and (self._ray_loaded or raylet == "-"):
            self._fork(request, descriptors, client)
        else:
            if request and has_raylet(request["environment"]):  # false while a Ray shuts down
                # The zygote of this raylet and job answers. It gets the client's own socket before the descriptors.
                passed = [client.fileno(), *descriptors]
                if raylet not in self._by_raylet:
                    self._by_raylet[raylet] = self._start_with_ray(request["environment"], passed)
                # That zygote may have ended since. The client then sees its own socket close.
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as inner, suppress(ConnectionError):
                    inner.connect(self._by_raylet[raylet][1])
                    send(inner, request, passed)
            client.close()
        for descriptor in descriptors:
            os.close(descriptor)

    def _fork(self, request: dict, descriptors: list[int], client: socket.socket) -> None:
        pid = os.fork()
        if pid == 0:
            self._become(request, descriptors, client)  # never returns
        peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        both = (pid, struct.unpack("3i", peer)[0])  # the client may have left already
        ids = [found.id if (found := find_process(one)) else f"{one}.gone" for one in both]
        fork = self._forks[pid] = Fork(client, *ids)
        (self._folder / FORKS / fork.stands_for).write_text(fork.id)

    def _become(self, request: dict, descriptors: list[int], client: socket.socket) -> None:
        """Take the caller's place in the fork, and keep nothing of the server."""
        os.setpgid(0, 0)  # Ray kills the whole process group of a worker that ended
        show_as(*title_of(request["arguments"]))
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for one in [client, self._listener, *self._clients()]:
            one.close()
        os.close(self._wakeup_read)
        os.close(self._wakeup_write)
        # Each descriptor gets the number that it had in the caller. Until then it waits above all of these numbers.
        parked = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 512) for descriptor in descriptors]
        for descriptor in descriptors:
            os.close(descriptor)
        for descriptor, number in zip(parked, request["descriptors"], strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        tempfile.tempdir = None  # found under the zygote's variables
        run_as_python(request["arguments"], request["python"])

    def _start_with_ray(self, environment: dict[str, str], first: list[int]) -> tuple[int, str]:
        """Fork a zygote that imports Ray and VeRL under the variables of one raylet. Returns its pid and address.

        The `first` client's descriptors reach it through its socket, so it closes its inherited copies of them.
        """
        address = str(self._folder / f"socket.{self._zygotes}")
        self._zygotes += 1
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(address)
        listener.listen(64)
        pid = os.fork()
        if pid:
            listener.close()
            return pid, address
        import setproctitle

        os.setpgid(0, 0)
        show_as("posttrain_verl: warm Python with Ray", "warm-Python+Ray")
        for one in [self._listener, *self._clients()]:
            one.close()
        for descriptor in first:
            os.close(descriptor)
        os.environ.update({name: value for name, value in environment.items() if name.startswith("RAY_")})
        preload(RAY_MODULES)
        if raylet := sys.modules.get("ray._raylet"):
            # Ray (2.60) has its own copy of setproctitle, which does not find a command line that the package has written to.
            raylet.setproctitle = setproctitle.setproctitle  # type: ignore[attr-defined]
            raylet.getproctitle = setproctitle.getproctitle  # type: ignore[attr-defined]
        Zygote(listener, ray_loaded=True).serve()
        os._exit(0)

    def _pass_signal(self, client: socket.socket) -> None:
        """Pass a signal on to the fork. A fork whose client ended ends, too."""
        for pid in [pid for pid, fork in self._forks.items() if fork.client is client]:
            data = b""
            with suppress(ConnectionError):
                data = client.recv(64)
            with suppress(ProcessLookupError):
                os.kill(pid, int(data.split()[-1]) if data else signal.SIGKILL)

    def _record_end(self, pid: int, status: int) -> None:
        """Record how a fork ended before its client ends, so that whoever sees the client's end finds the record."""
        fork = self._forks.pop(pid, None)
        if fork is None:  # the zygote of a raylet that is gone
            self._by_raylet = {raylet: one for raylet, one in self._by_raylet.items() if one[0] != pid}
            return
        code = os.waitstatus_to_exitcode(status)
        half = self._folder / f"exit.{os.getpid()}"  # a name of its own: the zygotes share the folder
        for name in (fork.id, fork.stands_for):
            with suppress(OSError):  # a full disk must not end the run
                half.write_text(str(code))
                half.replace(self._folder / EXITS / name)
        (self._folder / FORKS / fork.stands_for).unlink(missing_ok=True)
        with suppress(OSError):
            fork.client.sendall(str(code).encode())
        fork.client.close()

    def _clients(self) -> list[socket.socket]:
        return [fork.client for fork in self._forks.values()]

    def _kill_all(self) -> None:
        for pid in self._forks:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def has_raylet(environment: Mapping[str, str]) -> bool:
    """Whether the raylet that these variables name is alive; true if they name none."""
    return Path("/proc", environment.get("RAY_RAYLET_PID", "self")).exists()


def receive(client: socket.socket) -> tuple[dict | None, list[int]]:
    """One request with its file descriptors; None if the client left before it was complete."""
    descriptors: list[int] = []
    data = b""
    while not data.endswith(b"\n"):
        part = b""
        with suppress(ConnectionError):
            part, received, _, _ = socket.recv_fds(client, 1 << 20, 64)  # a long environment, many files
            descriptors += received
        if not part:
            return None, descriptors
        data += part
    return json.loads(data), descriptors


# 4. A fork becomes the requested process.


def title_of(arguments: list[str]) -> tuple[str, str]:
    """`python ARGUMENTS` in one short line with files without their folders, and the name of the script or module."""
    shown = without_flags(arguments)
    line = re.sub(r"(?<![^\s=])/\S*/", "", " ".join(["python", *shown]))
    program = next((argument for argument in shown if argument != "-m"), "")
    name = "python-c" if program == "-c" else program.removesuffix(".py").replace("/", ".").rpartition(".")[2]
    return textwrap.shorten(line, 100, placeholder=" ..."), name or "python"


def without_flags(arguments: list[str]) -> list[str]:
    """The arguments from `-c`, `-m` or the script on. Flags before it are for the start of an interpreter."""
    while arguments and arguments[0].startswith("-") and arguments[0] not in ("-c", "-m"):
        arguments = arguments[1:]
    return arguments


def run_as_python(arguments: list[str], python: str) -> None:
    """Run `python ARGUMENTS` in this process, and end it."""
    import numpy
    import torch

    random.seed()
    numpy.random.seed()  # forks would draw the same numbers
    if os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # read when libgomp loaded, long ago
    multiprocessing.set_executable(python)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    code = 1
    try:
        execute(without_flags(arguments))
        code = 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            code = end.code or 0
        else:  # like the interpreter: print the reason, and exit with 1
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(BaseException):  # end like an interpreter: join the threads, run atexit
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(BaseException):
                stream.flush()
        os._exit(code)  # the zygote's own frames below must not continue


def execute(arguments: list[str]) -> None:
    """Run `-c CODE`, `-m MODULE` or `SCRIPT`, each with its arguments."""
    kind, rest = (arguments[0], arguments[1:]) if arguments[0] in ("-c", "-m") else ("", arguments)
    sys.argv = [kind, *rest[1:]] if kind else rest
    if kind == "-c":
        main = sys.modules["__main__"].__dict__
        main.clear()
        main.update(__name__="__main__", __builtins__=__builtins__)
        exec(compile(rest[0], "<string>", "exec"), main)
    elif kind == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(rest[0]).parent))
        runpy.run_path(rest[0], run_name="__main__")
