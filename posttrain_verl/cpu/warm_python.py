"""The client of `zygote`: stands for `python ARGUMENTS`, runs on a bare interpreter (-I -S) and imports next to nothing.

Usage: warm_python.py PYTHON SOCKET ARGUMENTS. Without an answering zygote it becomes PYTHON itself.
"""

import json
import os
import signal
import socket
import sys

NAME = "python-stand-in"  # what `top` shows; `ps` shows the whole command
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def open_descriptors(own: set[int]) -> list[int]:
    """The numbers of the descriptors this process inherited."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        try:
            os.fstat(number)
        except OSError:  # the descriptor of the listing itself
            continue
        if number not in own:
            found.append(number)
    return sorted(found)


def take_name() -> None:
    try:
        with open("/proc/self/comm", "w") as file:
            file.write(NAME)
    except OSError:  # a /proc that cannot be written to
        pass


def main() -> int:
    python, address, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.connect(address)
    except OSError:
        os.execv(python, [python, *arguments])
    take_name()
    descriptors = open_descriptors({server.fileno()})
    request = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "descriptors": descriptors,
        "python": os.path.join(os.path.dirname(address), "python"),
    }
    for number in FORWARDED:
        signal.signal(number, lambda received, _: server.sendall(b"%d " % received))
    message = json.dumps(request).encode() + b"\n"
    sent = socket.send_fds(server, [message], descriptors)
    if sent < len(message):
        server.sendall(message[sent:])
    return answer(server)


def answer(server: socket.socket) -> int:
    """Wait for the fork to end; a fork ended by a signal ends this process by the same one."""
    data = b""
    while part := server.recv(64):
        data += part
    last = data.decode().split("\n")[-2].split() if b"\n" in data else ["exit", "1"]
    code = int(last[1]) if last[0] == "exit" else 1
    if code < 0:
        if -code != signal.SIGKILL:  # whose action cannot be set, and needs not be
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main())
