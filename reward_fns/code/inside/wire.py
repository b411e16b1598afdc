"""Plain data between the judge and the program: JSON with tags for the types JSON lacks.

Only values of exact types of the standard library come out of `decode`, so that no comparison in the judge runs code of
the program. Everything else (an object, a function, a value of a class derived from a built-in one) goes through
`opaque` on both sides.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import PosixPath, PurePosixPath
from typing import Any

MAX_MESSAGE = 32 << 20
SAFE_INTEGER = 1 << 53
HEADER = struct.Struct("!I")
COLLECTIONS: dict[str, Any] = {
    "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque,
}  # fmt: skip
MAPPINGS: dict[str, Any] = {"dict": dict, "Counter": Counter, "OrderedDict": OrderedDict}
SINGLETONS: dict[str, object] = {"NotImplemented": NotImplemented, "Ellipsis": Ellipsis}
# Types that tests seldom see, by tag: how a value is written and read.
RARE: dict[str, tuple[type, Callable[[Any], object], Callable[[Any], object]]] = {
    "bytes": (bytes, lambda value: bytes(value).hex(), bytes.fromhex),
    "bytearray": (bytearray, lambda value: bytes(value).hex(), bytearray.fromhex),
    "complex": (complex, lambda value: [repr(value.real), repr(value.imag)], lambda pair: complex(*map(float, pair))),
    "Fraction": (Fraction, lambda value: [hex(value.numerator), hex(value.denominator)],
                 lambda pair: Fraction(int(pair[0], 16), int(pair[1], 16))),
    "Decimal": (Decimal, str, Decimal),
    "range": (range, lambda value: list(map(hex, (value.start, value.stop, value.step))),
              lambda bounds: range(*(int(bound, 16) for bound in bounds))),
    "slice": (slice, lambda value: [value.start, value.stop, value.step], lambda bounds: slice(*bounds)),
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "time": (time, time.isoformat, time.fromisoformat),
    "timedelta": (
        timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: timedelta(*parts),
    ),
    "PurePosixPath": (PurePosixPath, str, PurePosixPath),
    "PosixPath": (PosixPath, str, PosixPath),
}  # fmt: skip
# The types that pass by value, by name, and those of them that a call may change.
TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (*COLLECTIONS.values(), *MAPPINGS.values(), defaultdict, *(kind for kind, _, _ in RARE.values()))
}
CONTAINERS = 64  # lists and the like of a program's objects that both sides keep the same, the last ones that were read
MUTABLE = (list, dict, set, deque, bytearray)
# What a value of a derived class is underneath, the narrower type first; then how its plain value is read.
BASES: dict[type, Callable[[Any], object]] = {
    int: lambda value: int.__add__(value, 0),
    float: lambda value: float.__add__(value, 0.0),
    complex: complex,
    str: str.__str__,
    bytes: bytes,
    tuple: lambda value: tuple(tuple.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    Fraction: lambda value: Fraction(value.numerator, value.denominator),
    Decimal: lambda value: Decimal(Decimal.__str__(value)),
    datetime: lambda value: datetime.fromisoformat(datetime.isoformat(value)),
    date: lambda value: date.fromisoformat(date.isoformat(value)),
    list: lambda value: list(list.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
    set: lambda value: set(set.__iter__(value)),
    deque: lambda value: deque(deque.__iter__(value)),
    bytearray: bytearray,
}
_TAGS = {kind: tag for tag, kind in COLLECTIONS.items()}
_MAPPING_TAGS = {kind: tag for tag, kind in MAPPINGS.items()}
_RARE_TAGS = {kind: (tag, write) for tag, (kind, write, _) in RARE.items()}


class Closed(BaseException):
    """The other side is gone. No test that expects an exception of the program expects this."""


def base_type(kind: type) -> type | None:
    """The built-in type that a class derives from, or None."""
    return next((base for base in BASES if issubclass(kind, base)), None)


def encode(value: object, opaque: Callable[[object], object]) -> object:
    """`value` as JSON data. What is not of one of the exact types goes through `opaque`, which gives JSON data or raises."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if -SAFE_INTEGER < value < SAFE_INTEGER else {"int": hex(value)}  # type: ignore[operator,arg-type]
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}  # type: ignore[arg-type]
    if kind is str:
        try:
            value.encode()  # type: ignore[attr-defined]
        except UnicodeEncodeError:  # lone surrogates, which JSON in UTF-8 cannot carry
            return {"str": value.encode("utf-8", "surrogatepass").hex()}  # type: ignore[attr-defined]
        return value
    if kind in _TAGS:
        return {_TAGS[kind]: [encode(item, opaque) for item in value]}  # type: ignore[attr-defined]
    if kind in _MAPPING_TAGS:
        return {_MAPPING_TAGS[kind]: encode_pairs(value, opaque)}
    if kind in _RARE_TAGS:
        tag, write = _RARE_TAGS[kind]
        return {tag: write(value)}
    if kind is defaultdict:
        return {"defaultdict": [getattr(value.default_factory, "__name__", ""), encode_pairs(value, opaque)]}  # type: ignore[attr-defined]
    if kind.__module__ == "numpy" and kind.__name__ == "ndarray" and not value.dtype.hasobject:  # type: ignore[attr-defined]
        return {"ndarray": [value.dtype.str, list(value.shape), value.tobytes().hex()]}  # type: ignore[attr-defined]
    for name, singleton in SINGLETONS.items():
        if value is singleton:
            return {"singleton": name}
    return opaque(value)


def encode_pairs(value: Any, opaque: Callable[[object], object]) -> list[list[object]]:
    return [[encode(key, opaque), encode(item, opaque)] for key, item in dict.items(value)]


READERS: dict[str, Callable[[Any], object]] = {
    "int": lambda text: int(text, 16),
    "float": float,
    "str": lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
    "singleton": SINGLETONS.__getitem__,
    **{tag: read for tag, (_, _, read) in RARE.items()},
}
FACTORIES = {kind.__name__: kind for kind in (int, float, str, list, dict, set, tuple, bool)}


def decode(data: object, opaque: Callable[[str, Any], object]) -> object:
    """The value of JSON data; an unknown tag and what stands under it go through `opaque`.

    Raises ValueError or TypeError for anything else."""
    if not isinstance(data, dict):
        if isinstance(data, list):
            raise ValueError("untagged list")
        return data
    ((tag, body),) = data.items()
    if tag in COLLECTIONS:
        return COLLECTIONS[tag](decode(item, opaque) for item in body)
    if tag in MAPPINGS:
        return MAPPINGS[tag]({decode(k, opaque): decode(v, opaque) for k, v in body})
    if tag == "defaultdict":
        return defaultdict(FACTORIES.get(body[0]), {decode(k, opaque): decode(v, opaque) for k, v in body[1]})
    if tag == "ndarray":
        kind, shape, content = body
        return sys.modules["numpy"].frombuffer(bytes.fromhex(content), dtype=kind).reshape(shape).copy()
    return READERS[tag](body) if tag in READERS else opaque(tag, body)


def send(channel: socket.socket, message: object) -> None:
    data = json.dumps(message).encode()
    if len(data) > MAX_MESSAGE:
        raise ValueError(f"a value of {len(data)} bytes is larger than the {MAX_MESSAGE} that may pass")
    try:
        channel.sendall(HEADER.pack(len(data)) + data)
    except OSError as error:
        raise Closed("the other side closed the channel") from error


def receive(channel: socket.socket) -> dict[str, object]:
    """The next message. Raises Closed, or ValueError when it is too large or not a JSON object."""
    (size,) = HEADER.unpack(receive_exactly(channel, HEADER.size))
    if size > MAX_MESSAGE:
        raise ValueError("message too large")
    message = json.loads(receive_exactly(channel, size))
    if not isinstance(message, dict):
        raise ValueError("message is not an object")
    return message


def receive_exactly(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            chunk = channel.recv(min(size - len(data), 1 << 20))
        except OSError:
            chunk = b""
        if not chunk:
            raise Closed("the other side closed the channel")
        data += chunk
    return bytes(data)


class Graph:
    """Objects of classes that both sides define, such as nodes of a list or a tree: their attributes pass by value, and which
    attribute is which object is kept within one message."""

    def __init__(self) -> None:
        self.objects: list[object] = []
        self._index: dict[int, int] = {}

    def add(self, value: object) -> dict[str, int]:
        index = self._index.setdefault(id(value), len(self.objects))
        if index == len(self.objects):
            self.objects.append(value)
        return {"node": index}

    def dump(self, encode_one: Callable[[object], object]) -> list[list[object]]:
        """[[class name, [[attribute, data], ...]], ...]; encoding an attribute may add further objects."""
        return [
            [type(item).__name__, [[name, encode_one(value)] for name, value in vars(item).items()]]
            for item in self.objects
        ]


def load_graph(
    rows: list[Any], find_class: Callable[[str], type], decode_one: Callable[[object, list[object]], object]
) -> list[object]:
    """The objects of `Graph.dump`. `decode_one` gets the data of an attribute and all objects."""
    objects: list[object] = [object.__new__(find_class(str(name))) for name, _ in rows]
    for made, (_, attributes) in zip(objects, rows, strict=True):
        vars(made).update({str(name): decode_one(data, objects) for name, data in attributes})
    return objects


def overwrite(mine: Any, theirs: Any) -> None:
    """Carry a change that was made to `theirs`, a copy of `mine` on the other side, over to `mine`."""
    if mine is theirs:
        return
    if isinstance(mine, list | bytearray) and type(mine) is type(theirs):
        mine[:] = theirs
    elif isinstance(mine, dict | set | deque) and type(mine) is type(theirs):
        mine.clear()
        (mine.extend if isinstance(mine, deque) else mine.update)(theirs)
    elif type(mine) is type(theirs) and hasattr(mine, "__dict__"):
        vars(mine).clear()
        vars(mine).update(vars(theirs))
