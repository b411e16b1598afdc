"""The warm process inside the sandbox. It imports what exercises use, then forks two processes per request: a keeper,
which waits, watches and reports, and under it the process that gives up everything and runs the code.

Neither programs nor tests pass through the warm process: each child reads its own from a descriptor.
"""

from __future__ import annotations

import builtins
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from reward_fns import forkserver
from reward_fns.code.inside import confine, judge, leetcode, program, wire

WATCH_SECONDS = 0.02
CROWD, CROWD_NICE = 8, 19  # more processes than this give way to the programs beside them
MODULES = (
    "math cmath random re string itertools functools operator collections heapq bisect copy json datetime statistics "
    "fractions decimal typing dataclasses enum abc array io time queue textwrap contextlib calendar hashlib"
)
isolated = True


def main(control_fd: int, isolation: str, packages: list[str]) -> None:
    global isolated
    isolated = isolation == "bwrap"
    for name in [*MODULES.split(), *packages]:
        __import__(name)
    for name in ("exit", "quit"):  # the site module, which is left out, gives them to programs
        setattr(builtins, name, sys.exit)
    leetcode.names_in_scope()  # once, and not in each child
    gc.freeze()  # children touch fewer pages
    with socket.socket(fileno=control_fd) as control:
        forkserver.serve_forks(control, run_keeper)


def run_keeper(request: bytes, fds: list[int]) -> None:
    """The keeper: start the process, watch it, report how it ended as JSON on the first descriptor.

    `request` is "kind wall_seconds memory_bytes output_bytes processes". The judge runs the tests of the data set, not
    the model's code: it needs no keeper and no view of its own, only limits."""
    kind, *numbers = request.split()
    wall, memory, output, processes = float(numbers[0]), *map(int, numbers[1:])
    status, *work = fds
    if kind == b"judge":
        run_confined(kind, work, wall, memory, output, processes)
    if isolated:
        confine.new_process_namespace()
    pid = os.fork()
    if pid == 0:
        os.close(status)
        forkserver.die_with_parent()
        forkserver.run_child(lambda *_: run_confined(kind, work, wall, memory, output, processes), kind, work)
    for fd in work:
        os.close(fd)
    report = watch_process(pid, status, wall, memory)
    with socket.socket(fileno=status) as channel, suppress(BrokenPipeError):  # the client may have stopped waiting
        channel.sendall(json.dumps(report).encode())


def watch_process(pid: int, status: int, wall: float, memory: int) -> dict[str, object]:
    """Wait for the process; kill it at the wall limit, the memory limit, or when the client hangs up."""
    poller = select.poll()
    ended = os.pidfd_open(pid)
    poller.register(ended, select.POLLIN)
    poller.register(status, select.POLLRDHUP)
    begin, why = time.monotonic(), ""
    while not why:
        left = begin + wall - time.monotonic()
        ready = {fd for fd, _ in poller.poll(max(0.0, min(left, WATCH_SECONDS)) * 1000)}
        if ended in ready:
            break
        pids = list_descendants()
        for crowding in pids if len(pids) > CROWD else ():
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.setpriority(os.PRIO_PROCESS, crowding, CROWD_NICE)
        why = "cancelled" if ready else "time" if left <= 0 else "memory" if resident_memory(pids) > memory else ""
    if why:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if not isolated:  # a namespace ends with its first process, a process group does not
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"code": code, "why": why, "seconds": round(time.monotonic() - begin, 4)}


def resident_memory(pids: list[int]) -> int:
    """Bytes of memory that the processes hold, by the kernel's own count."""
    pages = 0
    for pid in pids:
        with suppress(OSError):  # it ended meanwhile
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def list_descendants() -> list[int]:
    """Processes whose namespace is the one this keeper made for its children, or without one its own children."""
    if not isolated:
        return list_children(os.getpid())
    mine = Path("/proc/self/ns/pid_for_children").readlink()
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):  # it ended meanwhile, or belongs to someone else
            if folder.name.isdigit() and (folder / "ns/pid").readlink() == mine:
                found.append(int(folder.name))
    return found


def list_children(pid: int) -> list[int]:
    direct = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return direct + [grandchild for child in direct for grandchild in list_children(child)]


def run_confined(kind: bytes, fds: list[int], wall: float, memory: int, output: int, processes: int) -> None:
    """Give up everything, then run the code. Does not return: the exit code is the program's."""
    runner, names = KINDS[kind]
    os.setsid()  # a signal to its own process group must not reach the warm process
    if kind == b"judge":
        signal.setitimer(signal.ITIMER_REAL, wall)  # its default action ends the process
    elif isolated:
        confine.new_view(scratch_bytes=4 * output)
    confine.set_limits(memory=memory, cpu=int(wall) + 1, processes=processes, files=64, output=output)
    if isolated:
        confine.drop_capabilities()
        confine.refuse_system_calls()
    sys.setrecursionlimit(10_000)
    sys.set_int_max_str_digits(0)  # exercises ask for numbers of any length
    os._exit(runner(dict(zip(names, fds, strict=True))))


def run_script(fds: dict[str, int]) -> int:
    source = read_all(fds["source"])
    for target, name in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(fds[name], target)
        os.close(fds[name])
    return program.run_script(source)


def run_program(fds: dict[str, int]) -> int:
    request = json.loads(read_all(fds["source"]))
    with socket.socket(fileno=fds["rpc"]) as channel:
        program.serve_program(request["source"], request["conventions"], channel)
    return 0


def run_judge(fds: dict[str, int]) -> int:
    spec = json.loads(read_all(fds["spec"]))
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # what tests print is nobody's
        os.dup2(quiet, descriptor)
    with socket.socket(fileno=fds["rpc"]) as channel, os.fdopen(fds["out"], "w") as out:
        try:
            verdict = judge.judge(spec, channel)
        except wire.Closed:
            verdict = {"passed": [], "why": "the program ended before it was called", "unsupported": False}
        json.dump(verdict, out)
    return 0


def read_all(fd: int) -> str:
    with os.fdopen(fd, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


# What runs a process of each kind, and the descriptors that it gets in their order.
KINDS = {
    b"script": (run_script, ("source", "stdin", "stdout", "stderr")),
    b"program": (run_program, ("source", "rpc")),
    b"judge": (run_judge, ("spec", "rpc", "out")),
}
