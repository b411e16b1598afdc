"""The verb `serve`: the runs, live. It prints the address of a page that lists the runs and follows them.

Each has the page that `report` writes, updated while it trains. It listens on 127.0.0.1 only.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from pathlib import Path

import uvicorn

from posttrain_verl.report.app import make_application
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verbs import Serve

HOST = "127.0.0.1"


def bind_port(port: int) -> socket.socket:
    """A socket that listens on the loopback. Raises InputError: another program has the port."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        problem = Problem(f"port {port} cannot be had ({error.strerror})", "choose another, or port=0 for a free one")
        raise InputError(Serve.TITLE, [problem]) from None
    return listener


def run(asked: Serve) -> int:
    """The verb without its command line; ends with Ctrl-C. Raises InputError."""
    home, listener = Path(asked.runs_dir), bind_port(asked.port)
    print(f"runs in {home}: http://{HOST}:{listener.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
    server = uvicorn.Server(uvicorn.Config(make_application(home), log_level="warning"))
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return 130


if __name__ == "__main__":
    sys.exit(command_line.main(Serve, run))
