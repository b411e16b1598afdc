"""The judge's side of the channel: requests to the program, and what comes back as plain data or as mirrors."""

from __future__ import annotations

import builtins
import functools
import socket
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from datetime import date
from typing import Any

from reward_fns.code.inside import wire
from reward_fns.code.inside.mirror import (
    Mirror,
    Named,
    Remote,
    Unsupported,
    is_remote,
    make_class,
    place_of,
    put_in_place,
)

MAX_ITEMS = 1_000_000
SINGLE_ITEMS, BATCH = 64, 256  # an iterator is asked for one item at a time first, since its next one may never come
FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)


class RemoteError(RuntimeError):
    """The program raised something that is no exception here."""


class Program:
    def __init__(self, channel: socket.socket):
        self.channel = channel
        self.mirrors: dict[int, Any] = {}
        self.facts: dict[int, Any] = {}  # of classes, as the program has described them
        self.containers: dict[int, tuple[Any, object]] = {}  # of the program, and as it knows them
        self.gone = False
        self.turn = threading.RLock()
        self.functions: list[Callable[..., object]] = []
        self.shared: dict[str, type] = {}  # classes of the tests whose objects pass by value
        self.treated_as_classes: set[str] = set()  # by the tests
        self.owned: set[type] = set()  # the mirrors of those
        self.changes: list[tuple[object, object]] = []  # of arguments, which show from the next statement on
        self.streams: dict[int, Stream] = {}

    def ask(self, op: str, **request: object) -> dict[str, Any]:
        """One request. Raises what the program raised, or wire.Closed when it is gone."""
        with self.turn:  # tests may call from several threads
            self.settle()
            for number, (mine, known) in list(self.containers.items()):
                if (data := self.encode(mine)) != known:  # the test has changed a list of the program
                    self.containers[number] = (mine, data)
                    self.exchange("replace", ref=number, to=data)
            reply = self.exchange(op, **request)
            for number, data in dict(reply.get("updates") or {}).items():
                self.adopt(self.decode(data), number)
            for stream, text in zip((sys.stdout, sys.stderr), list(reply.get("printed") or ()), strict=False):
                stream.write(str(text))
            if "error" in reply:
                raise self.rebuild(reply["error"])
            return reply

    def exchange(self, op: str, **request: object) -> dict[str, Any]:
        try:
            wire.send(self.channel, {"op": op, **request})
        except wire.Closed:
            self.gone = True
            raise
        while "op" in (reply := self.receive()):
            wire.send(self.channel, self.answer(reply))
        return reply

    def adopt(self, value: Any, number: Any) -> Any:
        """The test's own copy of a container of the program, which is to stay the same on both sides."""
        mine = self.containers.get(int(number), (value, None))[0]
        wire.overwrite(mine, value)
        self.containers[int(number)] = (mine, self.encode(mine))
        if len(self.containers) > wire.CONTAINERS:
            del self.containers[next(iter(self.containers))]
        return mine

    def receive(self) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = wire.receive(self.channel)
        except wire.Closed:
            self.gone = True
            raise
        for number, facts in dict(reply.get("classes") or {}).items():
            self.facts[int(number)] = facts
        return reply

    def answer(self, request: dict[str, Any]) -> dict[str, object]:
        """Call a function that the tests passed to the program. The program can ask for nothing else."""
        try:
            args = [self.decode(item) for item in request["args"]]
            kwargs = {str(key): self.decode(item) for key, item in dict(request["kwargs"]).items()}
            return {"value": self.encode(self.functions[int(request["number"])](*args, **kwargs))}
        except (wire.Closed, Unsupported):
            raise
        except Exception as error:
            return {"error": self.refer(error)}

    def value(self, op: str, **request: object) -> Any:
        reply = self.ask(op, **request)
        return self.decode(reply["value"], self.load_nodes(reply))

    def named(self, name: str) -> Any:
        return put_in_place(object.__new__(Named), self, name=name)

    def get(self, mirror: object, name: str) -> object:
        reply = self.ask("get", **place_of(mirror), attribute=name)
        value = self.decode(reply["value"])
        return self.adopt(value, reply["container"]) if "container" in reply else value

    def set(self, mirror: object, name: str, value: object) -> None:
        self.ask("set", **place_of(mirror), attribute=name, to=self.encode(value))

    def special(self, mirror: object, method: str, *args: object) -> object:
        return self.value("special", **place_of(mirror), method=method, **self.encode_arguments(args, {}))

    def call(self, mirror: object, args: tuple[object, ...], kwargs: dict[str, object], **how: object) -> object:
        """Call it. What it changed of its arguments shows from the next statement on, or at once when it returns nothing:
        within one statement `f(x) == sorted(x)` could else be met by emptying x."""
        reply = self.ask("call", **place_of(mirror), **self.encode_arguments(args, kwargs), **how)
        for key, state in dict(reply.get("changed") or {}).items():
            mine = kwargs[key] if key in kwargs else args[int(key)]
            self.changes.append((mine, self.decode(state["value"], self.load_nodes(state))))
        result = self.decode(reply["value"], self.load_nodes(reply))
        if result is None:
            self.settle()
        return result

    def next_item(self, mirror: object) -> object:
        stream = self.streams.setdefault(id(mirror), Stream(self, mirror))
        return stream.next()

    def settle(self) -> None:
        while self.changes:
            wire.overwrite(*self.changes.pop())

    def names(self, names: list[str]) -> dict[str, Any]:
        """What the program has under the names. A name for which it has nothing is left out."""
        found: dict[str, Any] = {}
        reply = self.ask("names", names=names)
        containers = dict(reply["containers"])
        for name, data in dict(reply["names"]).items():
            kind, body = next(iter(data.items())) if isinstance(data, dict) else ("", None)
            if kind == "module":
                module = str(body)
                if module == name and name in sys.stdlib_module_names:  # `import math as f` makes no f
                    found[name] = __import__(name)
                elif module == "numpy" and module in sys.modules:
                    found[name] = sys.modules[module]
            else:
                found[name] = self.named(name) if kind == "method" else self.decode(data)
                if name in containers:
                    found[name] = self.adopt(found[name], containers[name])
            if name in self.treated_as_classes and isinstance(found.get(name), Mirror):
                self.owned.add(found[name])
        return found

    def rebuild(self, error: Any) -> BaseException:
        """The exception that the program raised, of the same class and with the same text."""
        kind, args = self.decode(error["kind"]), [self.decode(item) for item in error["args"]]
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            return RemoteError(str(error.get("text")))
        state = {} if isinstance(kind, Mirror) else {str(k): self.decode(v) for k, v in error["state"]}
        made: BaseException
        try:
            made = kind.__new__(kind, *args) if isinstance(kind, Mirror) or state else kind(*args)
        except Exception:  # its constructor takes other arguments than it keeps
            made = kind.__new__(kind)
        object.__setattr__(made, "args", tuple(args))
        vars(made).update(state) if state else None
        if isinstance(kind, Mirror):
            self.mirrors[int(error["ref"])] = put_in_place(made, self, ref=int(error["ref"]))
            object.__setattr__(made, "__told__", str(error.get("text")))
        object.__setattr__(made, "__of_program__", True)
        return made

    def coroutine(self, number: int) -> Coroutine[Any, Any, object]:
        async def wait() -> object:
            return self.value("await", ref=number)

        return wait()

    def encode(self, value: object) -> object:
        return wire.encode(value, self.refer)

    def encode_arguments(self, args: tuple[object, ...], kwargs: dict[str, object]) -> dict[str, object]:
        graph = wire.Graph()

        def opaque(value: object) -> object:
            return graph.add(value) if type(value) in self.shared.values() else self.refer(value)

        sent: dict[str, object] = {"args": [wire.encode(arg, opaque) for arg in args]}
        if kwargs:
            sent["kwargs"] = {key: wire.encode(value, opaque) for key, value in kwargs.items()}
        if graph.objects:
            sent["nodes"] = graph.dump(lambda one: wire.encode(one, opaque))
        return sent

    def refer(self, value: object) -> object:
        """How the program is told of what is not plain data. Raises Unsupported."""
        if is_remote(value):
            where = place_of(value)
            return {"ref": where["ref"]} if "ref" in where else {"global": where["name"]}
        if library := library_name(value):
            return {"library": library}
        if isinstance(value, FUNCTIONS):
            self.functions.append(value)
            return {"function": len(self.functions) - 1}
        if isinstance(value, Iterator) and type(value).__module__ in ("builtins", "itertools"):
            self.functions.append(functools.partial(next, value))
            return {"iterator": len(self.functions) - 1}
        if isinstance(value, BaseException):
            return {"exception": [self.encode(type(value)), [self.encode(item) for item in value.args]]}
        raise Unsupported(f"a test passes a {type(value).__name__}, which cannot be sent to the program")

    def load_nodes(self, reply: dict[str, Any]) -> list[object]:
        return wire.load_graph(reply["nodes"], self.shared.__getitem__, self.decode) if reply.get("nodes") else []

    def decode(self, data: object, nodes: list[object] | None = None) -> Any:
        def opaque(tag: str, body: Any) -> object:
            return nodes[body] if tag == "node" and nodes else self.resolve_reference(tag, body)

        return wire.decode(data, opaque)

    def resolve_reference(self, tag: str, body: Any) -> object:
        if tag == "builtin":
            known = getattr(builtins, str(body), None)
            return known if isinstance(known, type) else RemoteError
        if tag == "type":
            return self.mirrors.get(int(body)) or self.mirror_class(int(body))
        if tag == "coroutine":
            return self.coroutine(int(body))
        if tag not in ("ref", "held"):
            raise ValueError(f"unknown tag {tag}")
        number = int(body[0])
        kind: Any = self.resolve_reference("type", body[1])
        if number not in self.mirrors:
            # An exception of the standard library may stand here as a value: it has its own class.
            made: Any = make_held(kind, self.decode(body[2])) if tag == "held" else kind.__new__(kind)
            self.mirrors[number] = put_in_place(made, self, ref=number)
        return self.mirrors[number]

    def mirror_class(self, number: int) -> type:
        """The class here that stands for the program's: one of the standard library where it is that, else a mirror."""
        facts = self.facts[number]
        name, module = str(facts["name"]), str(facts["module"])
        bases = [self.decode(base) for base in facts["bases"]]
        package = module.split(".")[0]
        known = getattr(sys.modules.get(module), name, None) if package in sys.stdlib_module_names else None
        raised = isinstance(known, type) and issubclass(known, Exception) and package != "unittest"
        if isinstance(known, type) and (known in wire.TYPES.values() or raised):
            self.mirrors[number] = known
            return known
        base = wire.TYPES.get(str(facts["base"])) or getattr(builtins, str(facts["base"]), None)
        kept = [one for one in bases if isinstance(one, Mirror) or issubclass(one, BaseException)]
        if facts["held"] and isinstance(base, type) and not any(issubclass(one, base) for one in kept):
            kept.append(base)
        if not any(isinstance(one, Mirror) for one in kept):
            kept.insert(0, Remote)
        try:
            made = make_class(name, tuple(kept), facts, base)
        except TypeError:  # bases that do not go together here
            made = make_class(name, (Remote,), {**facts, "held": False}, base)
        self.mirrors[number] = put_in_place(made, self, ref=number)
        return made

    def owns(self, mirror: object) -> bool:
        """Whether the tests treat its class as a class, so that its operators are what they test."""
        return any(kind in self.owned for kind in type(mirror).__mro__)


class Stream:
    """Items of an iterator of the program, read ahead once many were asked for."""

    def __init__(self, program: Program, mirror: object):
        self.program, self.mirror = program, mirror
        self.ready: deque[object] = deque()
        self.failed: Any = None
        self.taken, self.ended = 0, False

    def next(self) -> object:
        if not self.ready and not self.ended:
            count = 1 if self.taken < SINGLE_ITEMS else BATCH
            reply = self.program.ask("next", **place_of(self.mirror), count=count)
            self.ready.extend(map(self.program.decode, reply["items"]))
            self.ended, self.failed = bool(reply["ended"]), reply.get("failed")
        if self.ready:
            self.taken += 1
            if self.taken > MAX_ITEMS:
                raise OverflowError(f"more than {MAX_ITEMS} items")
            return self.ready.popleft()
        failed, self.failed = self.failed, None
        raise self.program.rebuild(failed) if failed else StopIteration


def make_held(kind: Any, value: Any) -> object:
    """A value of a class derived from a built-in one, from its plain value. Raises ValueError when that is of another type."""
    base: Any = next(base for base in wire.BASES if issubclass(kind, base))
    if type(value) is not base:
        raise ValueError(f"a {type(value).__name__} is sent as a {base.__name__}")
    return base.__new__(kind, *(value.__reduce__()[1] if issubclass(base, date) else (value,)))


def library_name(value: Any) -> list[str]:
    """[module, name] of a function or class of the standard library, or []."""
    name, module = getattr(value, "__qualname__", None), getattr(value, "__module__", None)
    if not (isinstance(value, (type, *FUNCTIONS)) and isinstance(name, str) and isinstance(module, str)):
        return []
    found: Any = sys.modules.get(module) if module.split(".")[0] in sys.stdlib_module_names else None
    for part in name.split("."):
        found = getattr(found, part, None)
    return [module, name] if found is value else []
