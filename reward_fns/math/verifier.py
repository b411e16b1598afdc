"""math-verify in worker processes, with a time limit that holds even when sympy spins inside one C call.

The limit is kept from outside: a worker that has used its processor time is killed and a fresh one is forked from a
warm process (about 5 ms). A worker that is merely slow is reniced and a spare takes its place, so that calls beside it
do not queue behind it. No signal handler, no thread of the caller's loop, no lock held while waiting.
"""

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from reward_fns.forkserver import ForkServer

SLOW_SECONDS = 0.15  # of processor time, after which a worker is reniced and no longer counts as capacity
SLOW_NICE = 15
WALL_FACTOR = 4  # a call may take this many times its limit by the wall clock: the machine may be busy
POLL_MILLISECONDS = 20
MAX_SLOW = 8  # adversarial calls in flight at once; further ones wait
START_SECONDS = 60.0  # the first import of sympy on a busy machine
PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])


class VerifierError(RuntimeError):
    """The verifier could not decide: time limit, crash, or memory."""


@dataclass
class Worker:
    """One child of the warm process and the socket it answers on."""

    channel: socket.socket
    pid: int = 0
    calls: int = 0
    before: float = 0.0

    def begin(self, payload: bytes) -> None:
        self.before = processor_seconds(self.pid)
        self.channel.sendall(payload)

    def kill(self) -> None:
        if self.pid:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(self.pid, signal.SIGKILL)
        self.channel.close()


class Pool:
    """At most `size` workers at full speed plus a few slow ones. `judge` may be called from any thread."""

    def __init__(self, size: int = 4, *, calls_per_worker: int = 5000):
        self.size = size
        self.calls_per_worker = calls_per_worker
        self._idle: list[Worker] = []
        self._server: ForkServer | None = None
        self._start = threading.Lock()
        self._slots = threading.BoundedSemaphore(size)
        self._slow = threading.BoundedSemaphore(MAX_SLOW)

    def judge(self, request: dict[str, object], limit: float) -> dict[str, object]:
        """Send one request to a worker, give it at most `limit` seconds of processor time. Raises VerifierError."""
        payload = json.dumps(request).encode() + b"\n"
        with ExitStack() as slot:
            self._slots.acquire()
            slot.callback(self._slots.release)
            worker = self._begin_call(payload)
            deadline = time.monotonic() + WALL_FACTOR * limit
            try:
                reply = receive_reply(worker, min(limit, SLOW_SECONDS), deadline)
                if reply is not None:
                    worker.calls += 1
                    if worker.calls < self.calls_per_worker:
                        self._idle.append(worker)
                    else:
                        worker.channel.close()  # end of file ends the child; sympy's caches end with it
                    return dict(json.loads(reply))
                slot.close()  # a spare may take its place from here on
                with self._slow:
                    with suppress(ProcessLookupError):  # it may have ended by itself
                        os.setpriority(os.PRIO_PROCESS, worker.pid, SLOW_NICE)
                    reply = receive_reply(worker, limit, deadline)
                if reply is None:
                    raise VerifierError(f"no verdict within {limit:g} s of processor time")
            except BaseException:
                worker.kill()
                raise
            worker.kill()  # reniced for good: an unprivileged process may not raise its priority again
            return dict(json.loads(reply))

    def close(self) -> None:
        with self._start:
            while self._idle:
                self._idle.pop().channel.close()
            if self._server is not None:
                self._server.close()
                self._server = None

    def _begin_call(self, payload: bytes) -> Worker:
        """A worker that works on the request: an idle one, or a new one. One that ended while it was idle is not an error."""
        with suppress(IndexError):
            while True:
                worker = self._idle.pop()
                with suppress(OSError):
                    worker.begin(payload)
                    return worker
                worker.channel.close()
        worker = self._fork()
        try:
            worker.begin(payload)
        except OSError as error:
            worker.channel.close()
            raise VerifierError(f"the math worker died: {error}") from error
        return worker

    def _fork(self) -> Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                with self._start:
                    if self._server is None or not self._server.alive():
                        env = {**os.environ, "PYTHONPATH": PACKAGE_PARENT, "OMP_NUM_THREADS": "1"}
                        program = "import sys; from reward_fns.math.worker import main; main(int(sys.argv[1]))"
                        self._server = ForkServer(lambda fd: [sys.executable, "-P", "-c", program, str(fd)], env=env)
                    server = self._server
                server.fork(b"worker", [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise VerifierError(f"the math verifier did not start: {error}") from error
        worker = Worker(ours)
        hello = receive_reply(worker, START_SECONDS, time.monotonic() + START_SECONDS)
        if hello is None:
            ours.close()
            raise VerifierError(f"the math worker did not start within {START_SECONDS:g} s")
        worker.pid = int(hello)
        return worker


def receive_reply(worker: Worker, cpu_seconds: float, deadline: float) -> bytes | None:
    """One line from the worker, or None when it has used `cpu_seconds` on this call or the deadline has passed.

    Processor time, since on a machine that training keeps busy an honest call may wait longer than it works.
    Raises VerifierError when the worker died."""
    data = bytearray()
    poller = select.poll()
    poller.register(worker.channel, select.POLLIN)
    while not data.endswith(b"\n"):
        if not poller.poll(POLL_MILLISECONDS):
            # None is known before the worker said its number.
            used = processor_seconds(worker.pid) - worker.before if worker.pid else 0.0
            if used >= cpu_seconds or time.monotonic() >= deadline:
                return None
            continue
        chunk = worker.channel.recv(65536)
        if not chunk:
            raise VerifierError("the math worker died (out of memory, or a crash in a C extension)")
        data += chunk
    return bytes(data)


def processor_seconds(pid: int) -> float:
    """Processor time of another process, by Linux's numbering of its clocks (clock_getcpuclockid(3))."""
    with suppress(OSError):  # it ended: the channel says so
        return time.clock_gettime((~pid << 3) | 2)
    return 0.0
