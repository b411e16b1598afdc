"""A fork of the zygote becoming the process that was asked for: its descriptors, and `python ARGUMENTS` to the end."""

from __future__ import annotations

import atexit
import fcntl
import multiprocessing
import os
import random
import re
import runpy
import sys
import textwrap
import threading
from contextlib import suppress
from pathlib import Path
from types import CodeType

_FIRST_SAFE_FD = 512  # received descriptors are parked above every number a caller may ask for
_TITLE_CHARACTERS = 100


def show_as(title: str, name: str) -> None:
    """Set what `ps` shows of this process, and the name of at most 15 characters that `top` shows.

    The name is without spaces: there are programs that take /proc/PID/stat apart at its spaces.

    The first call finds the command line through the first variable of the environment, which lies behind it. So it is made
    when the zygote starts, and serves the forks: once variables were deleted, vLLM's own titles would go nowhere.
    """
    import setproctitle

    setproctitle.setproctitle(title)
    setproctitle.setthreadtitle(name)


def title_of(arguments: list[str]) -> tuple[str, str]:
    """`python ARGUMENTS` in one short line, files without their folders; and the name of the script or module."""
    words = _without_flags(arguments)
    line = re.sub(r"(?<![^\s=])/\S*/", "", " ".join(["python", *words]))
    program = next((word for word in words if word != "-m"), "")
    name = "python-c" if program == "-c" else program.removesuffix(".py").replace("/", ".").rpartition(".")[2]
    return textwrap.shorten(line, _TITLE_CHARACTERS, placeholder=" ..."), name or "python"


def take_descriptors(received: list[int], wanted: list[int]) -> None:
    """Give each received descriptor the number it had in the caller."""
    parked = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _FIRST_SAFE_FD) for descriptor in received]
    for descriptor in received:
        os.close(descriptor)
    for descriptor, number in zip(parked, wanted, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def run_as_python(arguments: list[str], python: str) -> None:
    """Do what `python ARGUMENTS` would, in this process, and end it."""
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
        _execute(arguments)
        code = 0
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _exit(code)


def _exit_code(end: SystemExit) -> int:
    """As the interpreter does it: anything but a number or None is printed, and means 1."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def _execute(arguments: list[str]) -> None:
    """`[flags] (-c CODE | -m MODULE | SCRIPT) [arguments]`."""
    arguments = _without_flags(arguments)
    kind, rest = (arguments[0], arguments[1:]) if arguments[0] in ("-c", "-m") else ("", arguments)
    sys.argv = [kind, *rest[1:]] if kind else rest
    if kind == "-c":
        program: CodeType = compile(rest[0], "<string>", "exec")
        sys.modules["__main__"].__dict__.clear()
        sys.modules["__main__"].__dict__.update(__name__="__main__", __builtins__=__builtins__)
        exec(program, sys.modules["__main__"].__dict__)
    elif kind == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(rest[0]).parent))
        runpy.run_path(rest[0], run_name="__main__")


def _without_flags(arguments: list[str]) -> list[str]:
    """Flags were for the start of an interpreter."""
    while arguments and arguments[0].startswith("-") and arguments[0] not in ("-c", "-m"):
        arguments = arguments[1:]
    return arguments


def _exit(code: int) -> None:
    """End as an interpreter does: threads joined, atexit run; the zygote's own frames below must not go on."""
    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BaseException):
            stream.flush()
    os._exit(code)
