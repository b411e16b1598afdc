"""A warm process that forks one child per request, so that a fresh worker costs milliseconds and not an import.

Both halves live here: `ForkServer` is the client; `serve` runs in the warm process, after its imports. Requests carry
file descriptors only. What a child works on travels over those, never through the warm process, so that one child
inherits nothing of another's. The module imports the standard library alone: it also runs inside the sandbox.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence

PR_SET_PDEATHSIG = 1
MAX_FDS = 8


class ForkServer:
    """Start `command` with a control socket and ask it for children. Thread-safe.

    `command` is called with the descriptor number of the control socket and gives the argument vector.
    """

    def __init__(self, command: Callable[[int], Sequence[str]], *, env: dict[str, str] | None = None, **popen: object):
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self.process = subprocess.Popen(
                list(command(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=env,
                start_new_session=True,
                **popen,  # type: ignore[call-overload]
            )

    def fork(self, kind: bytes, fds: Sequence[int]) -> None:
        """Ask for one child of `kind` that owns copies of `fds`. Raises OSError when the server is gone."""
        with self._lock:
            socket.send_fds(self.control, [kind], fds)

    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """End the server; its children are killed with it. Safe to call twice."""
        self.control.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that forked it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def serve_forks(control: socket.socket, handler: Callable[[bytes, list[int]], None]) -> None:
    """Fork one child per request until the client goes away. Children never return from here."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    while True:
        kind, fds, _, _ = socket.recv_fds(control, 64, MAX_FDS)
        if not kind:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with_parent()
            control.close()
            run_child(handler, kind, fds)
        for fd in fds:
            os.close(fd)


def run_child(handler: Callable[[bytes, list[int]], None], kind: bytes, fds: list[int]) -> None:
    """Run the handler and leave without the clean-up that belongs to the warm process."""
    status = 1
    try:
        handler(kind, fds)
        status = 0
    finally:
        os._exit(status)
