"""The side that runs the model's code. Nothing here is trusted by anyone: the code may replace all of it.

It knows the program and the arguments it is called with. Expected results never enter this process.
"""

from __future__ import annotations

import atexit
import builtins
import os
import socket
import sys
import threading
import traceback
import types
from collections.abc import Callable
from itertools import islice
from typing import Any

from reward_fns.code.inside import wire

MAX_ITEMS = 1_000_000


def run_script(source: str) -> int:
    """Run `source` as `__main__` with descriptors 0, 1 and 2 as they are. Gives the exit code."""
    sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["main.py"]
    code = exit_code(lambda: exec(compile(source, "main.py", "exec"), module.__dict__))
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    code = max(code, exit_code(atexit._run_exitfuncs), exit_code(sys.stdout.flush))
    sys.stderr.flush()
    return code


def exit_code(action: Callable[[], object]) -> int:
    """What the interpreter's exit code would be had `action` been the program."""
    try:
        action()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # whatever the program raises, it is reported and ends it, as in the interpreter
        traceback.print_exc()
        return 1
    return 0


def serve_program(source: str, channel: socket.socket) -> None:
    """Load `source` as a module and answer the judge's requests until it closes the channel."""
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(quiet, descriptor)
    server = Server()
    server.load(source)
    while True:
        try:
            request = wire.receive(channel)
        except wire.Closed:
            return
        wire.send(channel, server.answer(request))


def list_items(value: Any) -> list[object]:
    """The items of something to iterate over. Raises OverflowError for one that does not seem to end."""
    items = list(islice(value, MAX_ITEMS + 1))
    if len(items) > MAX_ITEMS:
        raise OverflowError(f"more than {MAX_ITEMS} items")
    return items


# What the judge may ask of a thing of the program, without arguments.
READINGS: dict[str, Callable[[Any], object]] = {
    "global": lambda value: value, "len": len, "next": next, "str": str, "repr": repr, "list": list_items,
}  # fmt: skip


class Server:
    """Holds the loaded module and the objects that the judge refers to by number."""

    def __init__(self) -> None:
        self.module = types.ModuleType("solution")
        self.objects: list[object] = []
        self.failure: BaseException | None = None

    def load(self, source: str) -> None:
        sys.modules["solution"] = self.module
        try:
            exec(compile(source, "solution.py", "exec"), self.module.__dict__)
        except BaseException as error:  # SystemExit too: a program that leaves while it is loaded defines nothing
            self.failure = error

    def answer(self, request: dict[str, object]) -> dict[str, object]:
        """{"value": data, "changed": {index: data}} or {"error": type name, "text": message}."""
        try:
            if self.failure is not None:
                raise self.failure
            operation = str(request["op"])
            if operation in READINGS:
                return {"value": self.encode(READINGS[operation](self.target(request)))}
            return getattr(self, f"do_{operation}")(request)
        except BaseException as error:  # reported to the judge, which raises it there
            return {"error": type(error).__name__, "text": str(error)[:500]}

    def do_names(self, request: dict[str, object]) -> dict[str, object]:
        """Which of the names exist: {"name": "callable" | "value" | "module"}."""
        kinds: dict[str, object] = {}
        for name in request["names"]:  # type: ignore[attr-defined]
            if name in self.module.__dict__:
                found = self.module.__dict__[name]
                module = isinstance(found, types.ModuleType)
                kinds[name] = "module" if module else "callable" if callable(found) else "value"
        return {"value": self.encode(kinds)}

    def do_call(self, request: dict[str, object]) -> dict[str, object]:
        args = [self.decode(item) for item in request["args"]]  # type: ignore[attr-defined]
        kwargs = {key: self.decode(item) for key, item in request["kwargs"].items()}  # type: ignore[attr-defined]
        before = {i: self.encode(arg) for i, arg in enumerate(args) if isinstance(arg, wire.MUTABLE)}
        value = self.target(request)(*args, **kwargs)  # type: ignore[operator]
        after = {i: self.encode(args[i]) for i in before}
        return {"value": self.encode(value), "changed": {str(i): after[i] for i in before if after[i] != before[i]}}

    def do_get(self, request: dict[str, object]) -> dict[str, object]:
        return {"value": self.encode(getattr(self.target(request), str(request["attribute"])))}

    def do_set(self, request: dict[str, object]) -> dict[str, object]:
        setattr(self.target(request), str(request["attribute"]), self.decode(request["to"]))
        return {"value": None}

    def do_item(self, request: dict[str, object]) -> dict[str, object]:
        return {"value": self.encode(self.target(request)[self.decode(request["key"])])}  # type: ignore[index]

    def target(self, request: dict[str, object]) -> object:
        return self.resolve(str(request["name"])) if "name" in request else self.objects[int(str(request["ref"]))]

    def resolve(self, name: str) -> object:
        """A global, or the method of that name of a fresh `Solution()`."""
        if name in self.module.__dict__:
            return self.module.__dict__[name]
        return getattr(self.module.__dict__["Solution"](), name)

    def encode(self, value: object) -> object:
        return wire.encode(value, self.refer)

    def decode(self, data: object) -> object:
        return wire.decode(data, self.resolve_reference)

    def resolve_reference(self, key: object) -> object:
        """An object handed out before, a global of the program, or a built-in by its name (`int` as an argument)."""
        if isinstance(key, dict):
            return self.resolve(key["global"])
        return self.objects[key] if isinstance(key, int) else getattr(builtins, str(key))

    def refer(self, value: object) -> object:
        scalar = getattr(value, "item", None)  # numpy's scalars and zero-dimensional arrays
        if callable(scalar) and getattr(value, "shape", None) == ():
            return wire.encode(scalar(), self.refer)
        self.objects.append(value)
        return {"ref": len(self.objects) - 1}
