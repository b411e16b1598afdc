"""The side that runs the model's code. Nothing here is trusted by anyone: the code may replace all of it.

It knows the program and the arguments it is called with. Expected results never enter this process.
"""

from __future__ import annotations

import atexit
import builtins
import copy
import importlib
import io
import linecache
import os
import random
import re
import socket
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

from reward_fns.code.inside import leetcode, wire

PRINTED_BYTES = 4 << 20  # what a program prints beyond this between two requests is dropped
METHOD = re.compile(r"(\w+)\(\)\.(\w+)")  # `Solution().name`, as LeetCode sets name their entry point
VIEWS: tuple[type, ...] = (type({}.keys()), type({}.items()))
READINGS: dict[str, Callable[[Any], object]] = {
    "global": lambda value: value, "str": str, "repr": repr, "copy": copy.copy, "deepcopy": copy.deepcopy,
}  # fmt: skip
# The methods behind Python's own syntax and functions. A mirror of a class has those of them that the class has.
_SPECIAL = (
    "len iter next bool int float complex index abs neg pos invert round trunc floor ceil hash reversed format call "
    "contains getitem setitem delitem enter exit await aenter aexit aiter anext eq ne lt le gt ge str repr missing "
    "add sub mul truediv floordiv mod divmod pow matmul lshift rshift and or xor "
    "radd rsub rmul rtruediv rfloordiv rmod rdivmod rpow rmatmul rlshift rrshift rand ror rxor "
    "iadd isub imul itruediv ifloordiv imod ipow imatmul ilshift irshift iand ior ixor"
)
SPECIAL_METHODS = tuple(f"__{name}__" for name in _SPECIAL.split())


def run_script(source: str) -> int:
    """Run `source` as `__main__` with descriptors 0, 1 and 2 as they are. Gives the exit code."""
    sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["main.py"]
    module = types.ModuleType("__main__")
    code = exit_code(lambda: run_module(module, source, "main.py"))
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    code = max(code, exit_code(atexit._run_exitfuncs), exit_code(sys.stdout.flush))
    sys.stderr.flush()
    return code


def run_module(module: types.ModuleType, source: str, name: str) -> None:
    """Run `source` in `module` as a file of that name would be. Nothing of this file's compilation reaches it."""
    module.__file__ = f"{os.getcwd()}/{name}"
    sys.modules[module.__name__] = module
    linecache.cache[module.__file__] = (len(source), None, source.splitlines(keepends=True), module.__file__)
    exec(compile(source, module.__file__, "exec", dont_inherit=True), module.__dict__)


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


def serve_program(source: str, conventions: bool, channel: socket.socket) -> None:
    """Load `source` as a module and answer the judge's requests until it closes the channel.

    With `conventions` the names that LeetCode puts in scope are there, behind the built-in ones."""
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(quiet, descriptor)
    server = Server(channel)
    server.load(source, conventions)
    while True:
        try:
            request = wire.receive(channel)
        except wire.Closed:
            return
        wire.send(channel, server.answer(request))


def is_generated(method: Any) -> bool:
    """Whether `dataclass` wrote it. Its comparisons hold between objects of the class alone."""
    return getattr(getattr(method, "__code__", None), "co_filename", "") == "<string>"


class Printed(io.BytesIO):
    """What the program printed since it was last asked."""

    def write(self, data: Any) -> int:
        return super().write(data) if self.tell() < PRINTED_BYTES else len(data)

    def fileno(self) -> int:
        return 1

    def take(self) -> str:
        text = self.getvalue().decode("utf-8", "replace")
        self.seek(0)
        self.truncate()
        return text


class Server:
    """Holds the loaded module and the objects that the judge refers to by number."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.module = types.ModuleType("solution")
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.described: set[int] = set()  # classes that the judge knows
        self.unknown: list[int] = []  # classes that the reply mentions and the judge does not know
        self.containers: dict[int, object] = {}  # those that both sides keep the same, as the judge knows them
        self.shared: set[str] = set()  # classes whose objects pass by value
        self.failure: BaseException | None = None
        self.loop: Any = None
        self.printed = (Printed(), Printed())
        self.streams = [io.TextIOWrapper(raw, encoding="utf-8", errors="replace") for raw in self.printed]

    def load(self, source: str, conventions: bool) -> None:
        sys.stdout, sys.stderr = self.streams
        if conventions:
            self.module.__dict__["__builtins__"] = leetcode.names_in_scope()
        try:
            run_module(self.module, source, "solution.py")
        except BaseException as error:  # SystemExit too: a program that leaves while it is loaded defines nothing
            self.failure = error
        self.take_printed()

    def take_printed(self) -> list[str]:
        for stream in self.streams:
            stream.flush()
        return [raw.take() for raw in self.printed]

    def answer(self, request: dict[str, object]) -> dict[str, object]:
        """What `do_<op>` gives, or {"error": {"kind", "args", "state", "text", "ref"}}; and what was printed."""
        try:
            if self.failure is not None:
                raise self.failure
            operation = str(request["op"])
            if operation in READINGS:
                reply = {"value": self.encode(READINGS[operation](self.target(request)))}
            else:
                reply = getattr(self, f"do_{operation}")(request)
        except BaseException as error:  # reported to the judge, which raises it there
            reply = {"error": self.describe_error(error)}
        updates = {}
        for number, known in self.containers.items():
            if (data := self.encode(self.objects[number])) != known:
                updates[str(number)] = self.containers[number] = data
        classes, printed = self.describe_unknown(), self.take_printed()
        reply = {**reply, "updates": updates} if updates else reply
        return {**reply, **({"classes": classes} if classes else {}), **({"printed": printed} if any(printed) else {})}

    def describe_unknown(self) -> dict[str, object]:
        classes: dict[str, object] = {}
        while self.unknown:  # describing a class may mention another
            number = self.unknown.pop()
            classes[str(number)] = self.describe(self.objects[number])
        return classes

    def class_number(self, kind: type) -> int:
        number = self.number(kind)
        if number not in self.described:
            self.described.add(number)
            self.unknown.append(number)
        return number

    def describe_error(self, error: BaseException) -> dict[str, object]:
        described: dict[str, object] = {
            "kind": self.encode(type(error)), "ref": self.number(error), "args": [], "state": []
        }  # fmt: skip
        try:
            described["text"] = str(error)[:10_000]
            described["args"] = [self.encode(item) for item in error.args]
            described["state"] = [[name, self.encode(value)] for name, value in vars(error).items()]
        except Exception:  # an exception whose own parts cannot be read is still raised
            described.setdefault("text", "")
        return described

    def do_names(self, request: dict[str, object]) -> dict[str, object]:
        """Those of the names that exist: {"name": data}, {"module": its name} or {"method": name} of `Solution`."""
        found: dict[str, object] = {}
        solution = self.module.__dict__.get("Solution")
        for name in map(str, request["names"]):  # type: ignore[call-overload]
            if name in self.module.__dict__:
                value = self.module.__dict__[name]
                module = isinstance(value, types.ModuleType)
                found[name] = {"module": value.__name__} if module else self.encode(value)
            elif METHOD.fullmatch(name) or (isinstance(solution, type) and hasattr(solution, name)):
                found[name] = {"method": name}
        values = {name: self.module.__dict__[name] for name in found if name in self.module.__dict__}
        return {
            "names": found,
            "containers": {n: self.keep_same(v) for n, v in values.items() if type(v) in wire.MUTABLE},
        }

    def keep_same(self, value: object) -> int:
        number = self.number(value)
        self.containers[number] = self.encode(value)
        if len(self.containers) > wire.CONTAINERS:
            del self.containers[next(iter(self.containers))]
        return number

    def do_replace(self, request: dict[str, object]) -> dict[str, object]:
        """The judge has changed a container."""
        number = int(str(request["ref"]))
        wire.overwrite(self.objects[number], self.decode(request["to"]))
        self.containers[number] = self.encode(self.objects[number])
        return {"value": None}

    def do_public(self, request: dict[str, object]) -> dict[str, object]:
        return {"names": [name for name in self.module.__dict__ if not name.startswith("_")]}

    def do_share(self, request: dict[str, object]) -> dict[str, object]:
        names: list[str] = list(request["classes"])  # type: ignore[call-overload]
        self.shared = {name for name in names if isinstance(self.module.__dict__.get(name), type)}
        return {"known": sorted(self.shared)}

    def describe(self, kind: type) -> dict[str, object]:
        """What a mirror of a class needs: its names, bases, and which special methods it has beyond those of `base`."""
        base = wire.base_type(kind)
        held = base is not None and base not in wire.MUTABLE
        plain = set(base.__mro__ if held and base else ()) | {object}
        owners = {name: next((k for k in kind.__mro__ if name in k.__dict__), object) for name in SPECIAL_METHODS}
        return {
            "name": kind.__name__, "module": str(kind.__module__),
            "doc": kind.__doc__ if isinstance(kind.__doc__, str) else None,
            "bases": [self.encode(one) for one in kind.__bases__ if one is not object],
            "base": base.__name__ if base else "", "held": held,
            "view": kind in VIEWS, "dataclass": is_generated(getattr(kind, "__eq__", None)),
            "special": [name for name, owner in owners.items() if owner not in plain and owner.__dict__[name] is not None],
            "hashable": owners["__hash__"].__dict__["__hash__"] is not None,
        }  # fmt: skip

    def do_call(self, request: dict[str, object]) -> dict[str, object]:
        """{"value", "changed": {position or name: state}}: the arguments that the call changed, as they are now.

        With `plain` the arguments and the result are JSON's: nodes are built from lists, derived types pass as their base."""
        args, kwargs = self.decode_arguments(request)
        target, plain = self.target(request), bool(request.get("plain"))
        if plain:
            args = leetcode.build_arguments(target, args, self.module)
        kept = {
            str(key): value
            for key, value in (*enumerate(args), *kwargs.items())
            if isinstance(value, wire.MUTABLE) or self.is_shared(value) or (plain and leetcode.is_node(value))
        }
        before = {key: self.state(value, plain) for key, value in kept.items()}
        result = target(*args, **kwargs)  # type: ignore[operator]
        result = leetcode.as_result(result, target) if plain else result
        after = {key: self.state(value, plain) for key, value in kept.items()}
        return {**self.state(result, plain), "changed": {k: after[k] for k in after if after[k] != before[k]}}

    def state(self, value: object, plain: bool = False) -> dict[str, object]:
        """{"value": data, "nodes": objects that pass by value}"""
        if plain:
            return {"value": wire.encode(leetcode.as_plain(value), self.refer_plain)}
        graph = wire.Graph()

        def opaque(one: object) -> object:
            return graph.add(one) if self.is_shared(one) else self.refer(one)

        data = wire.encode(value, opaque)
        return {"value": data, **({"nodes": graph.dump(lambda one: wire.encode(one, opaque))} if graph.objects else {})}

    def is_shared(self, value: object) -> bool:
        name = type(value).__name__
        return name in self.shared and self.module.__dict__.get(name) is type(value)

    def do_get(self, request: dict[str, object]) -> dict[str, object]:
        value = getattr(self.target(request), str(request["attribute"]))
        data = {"value": self.encode(value)}
        return {**data, "container": self.keep_same(value)} if type(value) in wire.MUTABLE else data

    def do_set(self, request: dict[str, object]) -> dict[str, object]:
        setattr(self.target(request), str(request["attribute"]), self.decode(request["to"]))
        return {"value": None}

    def do_delete(self, request: dict[str, object]) -> dict[str, object]:
        delattr(self.target(request), str(request["attribute"]))
        return {"value": None}

    def do_special(self, request: dict[str, object]) -> dict[str, object]:
        """A special method, called as the interpreter calls it: on the type."""
        args, _ = self.decode_arguments(request)
        target: Any = self.target(request)
        if issubclass(type(target), type) and request["method"] == "__getitem__":
            value = target[args[0]]  # which may be the class's own business: `Box[int]`
            return {"value": self.encode(value)}
        return {"value": self.encode(getattr(type(target), str(request["method"]))(target, *args))}

    def do_next(self, request: dict[str, object]) -> dict[str, object]:
        """Up to `count` further items: {"items", "ended"}, with "error" when taking the next one failed."""
        items: list[object] = []
        target: Any = self.target(request)
        try:
            while len(items) < int(str(request["count"])):
                items.append(self.encode(next(target)))
        except StopIteration:
            return {"items": items, "ended": True}
        except BaseException as error:
            return {"items": items, "ended": True, "failed": self.describe_error(error)}
        return {"items": items, "ended": False}

    def do_snapshot(self, request: dict[str, object]) -> dict[str, object]:
        """The plain value of an object whose class derives from a built-in one, or of a view of a dictionary."""
        target: Any = self.target(request)
        base = wire.base_type(type(target))
        return {"value": self.encode(wire.BASES[base](target) if base else set(target))}

    def do_await(self, request: dict[str, object]) -> dict[str, object]:
        import asyncio  # few programs need it

        async def wait() -> object:
            return await self.target(request)  # type: ignore[misc]

        self.loop = self.loop or asyncio.new_event_loop()
        return {"value": self.encode(self.loop.run_until_complete(wait()))}

    def do_seed(self, request: dict[str, object]) -> dict[str, object]:
        """Seed what the tests seeded in their own process."""
        module = {"random": random, "numpy": getattr(sys.modules.get("numpy"), "random", None)}[str(request["module"])]
        module.seed(self.decode(request["to"]))  # type: ignore[union-attr]
        return {"value": None}

    def target(self, request: dict[str, object]) -> object:
        return self.resolve(str(request["name"])) if "name" in request else self.objects[int(str(request["ref"]))]

    def resolve(self, name: str) -> object:
        """A global; `Class().method`; or the method of that name of a fresh `Solution()`."""
        if name in self.module.__dict__:
            return self.module.__dict__[name]
        named = METHOD.fullmatch(name)
        owner, method = named.groups() if named else ("Solution", name)
        if named and owner not in self.module.__dict__:
            return self.module.__dict__[method]
        return getattr(self.module.__dict__[owner](), method)

    def decode_arguments(self, request: dict[str, object]) -> tuple[list[object], dict[str, object]]:
        nodes = self.load_nodes(request)
        args = [self.decode(item, nodes) for item in request["args"]]  # type: ignore[attr-defined]
        return args, {key: self.decode(item, nodes) for key, item in dict(request.get("kwargs") or {}).items()}  # type: ignore[call-overload]

    def load_nodes(self, request: dict[str, object]) -> list[object]:
        rows: Any = request.get("nodes") or []
        return wire.load_graph(rows, self.module.__dict__.__getitem__, self.decode)

    def encode(self, value: object) -> object:
        return wire.encode(value, self.refer)

    def decode(self, data: object, nodes: list[object] | None = None) -> object:
        def opaque(tag: str, body: Any) -> object:
            return nodes[body] if tag == "node" and nodes else self.resolve_reference(tag, body)

        return wire.decode(data, opaque)

    def resolve_reference(self, tag: str, body: Any) -> object:
        """What the judge means: an object handed out before, a global, something of the standard library, a function or
        an iterator of the tests, an exception."""
        if tag == "ref":
            return self.objects[body]
        if tag == "global":
            return self.resolve(body)
        if tag == "library":
            found: Any = importlib.import_module(body[0])
            for part in body[1].split("."):
                found = getattr(found, part)
            return found
        if tag == "function":
            return lambda *args, **kwargs: self.call_back(body, args, kwargs)
        if tag == "iterator":
            return self.iterate_back(body)
        if tag == "exception":
            return self.decode(body[0])(*map(self.decode, body[1]))  # type: ignore[operator]
        raise ValueError(f"unknown tag {tag}")

    def call_back(self, number: int, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """Call a function of the tests. Until it has answered, the tests may ask in turn."""
        sent = {"args": [self.encode(arg) for arg in args], "kwargs": {k: self.encode(v) for k, v in kwargs.items()}}
        wire.send(self.channel, {"op": "callback", "number": number, **sent, "classes": self.describe_unknown()})
        while "op" in (reply := wire.receive(self.channel)):
            wire.send(self.channel, self.answer(reply))
        if "error" in reply:
            raise self.decode(reply["error"])  # type: ignore[misc]
        return self.decode(reply["value"])

    def iterate_back(self, number: int) -> Iterator[object]:
        while True:
            try:
                item = self.call_back(number, (), {})
            except StopIteration:
                return
            yield item

    def number(self, value: object) -> int:
        """The number of an object, the same each time: it is kept, so that its address stays its own."""
        number = self.numbers.setdefault(id(value), len(self.objects))
        if number == len(self.objects):
            self.objects.append(value)
        return number

    def refer(self, value: object) -> object:
        """How the judge is told of what is not plain data: by its number and its class's, with its plain value if it has one."""
        if isinstance(value, type):
            name = value.__name__
            return {"builtin": name} if getattr(builtins, name, None) is value else {"type": self.class_number(value)}
        scalar = getattr(value, "item", None)  # numpy's scalars and zero-dimensional arrays
        if callable(scalar) and getattr(value, "shape", None) == ():
            return wire.encode(scalar(), self.refer)
        if isinstance(value, types.CoroutineType):
            return {"coroutine": self.number(value)}
        base = wire.base_type(type(value))
        mine = [self.number(value), self.class_number(type(value))]
        if base is None or base in wire.MUTABLE:
            return {"ref": mine}
        return {"held": [*mine, wire.encode(wire.BASES[base](value), self.refer)]}

    def refer_plain(self, value: object) -> object:
        """As `refer`, but a value of a derived class passes as its plain value."""
        base = wire.base_type(type(value))
        return self.refer(value) if base is None else wire.encode(wire.BASES[base](value), self.refer_plain)
