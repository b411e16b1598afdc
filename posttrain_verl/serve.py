"""The runs, live: `python -m posttrain_verl.serve [posttrain.runs_dir=runs] [port=0]`.

Prints the address of a page that lists the runs and follows them; each has the page that `report` writes, updated while
it trains. Listens on 127.0.0.1 only: from elsewhere, forward the port (`ssh -L`). Port 0 takes a free one. Ctrl-C ends it.
Exit codes: 2 the input is wrong, 130 interrupted.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from pathlib import Path

import uvicorn

from posttrain_verl import options
from posttrain_verl.problem import InputError, Problem, exit_code
from posttrain_verl.reporting.app import application

HOST = "127.0.0.1"
OPTIONS = {"posttrain.runs_dir": "runs", "port": "0"}


def read_arguments(words: list[str]) -> tuple[Path, int]:
    """The folder of the runs and the port.

    Raises:
        InputError: a word is no option, the port is none, or the folder is not there.
    """
    given, problems = options.read("serve", words, OPTIONS)
    home, port = Path(given["posttrain.runs_dir"]), given["port"]
    if not (port.isdecimal() and int(port) < 65536):
        problems.append(Problem(f"port={port} is no port", "write port=8000, or leave it out for a free one"))
    if not home.is_dir():
        problems.append(Problem(f"{home} is no folder", "name the folder of the runs: posttrain.runs_dir=runs"))
    if problems:
        raise InputError("nothing to serve", problems)
    return home, int(port)


def bound(port: int) -> socket.socket:
    """A socket that listens on the loopback.

    Raises:
        InputError: another program has the port.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        problem = Problem(f"port {port} cannot be had ({error.strerror})", "choose another, or port=0 for a free one")
        raise InputError("nothing to serve", [problem]) from None
    return listener


def main() -> int:
    """The verb."""
    words = options.parser("serve", __doc__).parse_args().words
    return exit_code(lambda: run(words))


def run(words: list[str]) -> int:
    """The verb without its command line; ends with Ctrl-C. Raises InputError."""
    home, port = read_arguments(words)
    listener = bound(port)
    print(f"runs in {home}: http://{HOST}:{listener.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
    server = uvicorn.Server(uvicorn.Config(application(home), log_level="warning"))
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return 130


if __name__ == "__main__":
    sys.exit(main())
