"""Plain data between the judge and the program: JSON with tags for the types JSON lacks.

Only values of exact built-in types come out of `decode`, so that no comparison in the judge runs code of the program:
an object with an `__eq__` that always says yes arrives as an opaque reference, a subclass of int as an int.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_MESSAGE = 32 << 20
SAFE_INTEGER = 1 << 53
HEADER = struct.Struct("!I")
COLLECTIONS: dict[str, Any] = {
    "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque,
}  # fmt: skip
# Types that tests seldom see, by tag: how a value is written and read.
RARE: dict[str, tuple[type, Callable[[Any], object], Callable[[Any], object]]] = {
    "bytes": (bytes, lambda value: bytes(value).hex(), bytes.fromhex),
    "bytearray": (bytearray, lambda value: bytes(value).hex(), bytearray.fromhex),
    "complex": (complex, lambda value: [repr(value.real), repr(value.imag)], lambda pair: complex(*map(float, pair))),
    "Fraction": (Fraction, str, Fraction),
    "Decimal": (Decimal, str, Decimal),
    "range": (range, lambda value: [value.start, value.stop, value.step], lambda bounds: range(*bounds)),
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "timedelta": (
        timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: timedelta(*parts),
    ),
}
MUTABLE = (list, dict, set, deque, bytearray)


class Closed(ConnectionError):
    """The other side is gone."""


def encode(value: object, opaque: Callable[[object], object]) -> object:
    """`value` as JSON data. What is not plain data goes through `opaque`, which gives JSON data or raises."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        number = int.__add__(value, 0)
        return number if -SAFE_INTEGER < number < SAFE_INTEGER else {"int": hex(number)}
    if isinstance(value, float):
        real = float.__add__(value, 0.0)
        return real if math.isfinite(real) else {"float": repr(real)}
    if isinstance(value, str):
        text = str.__str__(value)
        try:
            text.encode()
        except UnicodeEncodeError:  # lone surrogates, which JSON in UTF-8 cannot carry
            return {"str": text.encode("utf-8", "surrogatepass").hex()}
        return text
    for tag, kind in COLLECTIONS.items():
        if isinstance(value, kind):
            return {tag: [encode(item, opaque) for item in kind.__iter__(value)]}
    if isinstance(value, dict):
        return {"dict": [[encode(k, opaque), encode(v, opaque)] for k, v in dict.items(value)]}
    for tag, (kind, write, _) in RARE.items():
        if isinstance(value, kind):
            return {tag: write(value)}
    return opaque(value)


READERS: dict[str, Callable[[Any], object]] = {
    "int": lambda text: int(text, 16),
    "float": float,
    "str": lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
    **{tag: read for tag, (_, _, read) in RARE.items()},
}


def decode(data: object, opaque: Callable[[object], object]) -> object:
    """The value of JSON data; a reference goes through `opaque`. Raises ValueError or TypeError for anything else."""
    if not isinstance(data, dict):
        if isinstance(data, list):
            raise ValueError("untagged list")
        return data
    ((tag, body),) = data.items()
    if tag in COLLECTIONS:
        return COLLECTIONS[tag](decode(item, opaque) for item in body)
    if tag == "dict":
        return {decode(k, opaque): decode(v, opaque) for k, v in body}
    if tag == "ref":
        return opaque(body)
    return READERS[tag](body)


def send(channel: socket.socket, message: object) -> None:
    data = json.dumps(message).encode()
    if len(data) > MAX_MESSAGE:
        raise ValueError(f"a value of {len(data)} bytes is larger than the {MAX_MESSAGE} that may pass")
    channel.sendall(HEADER.pack(len(data)) + data)


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
        chunk = channel.recv(min(size - len(data), 1 << 20))
        if not chunk:
            raise Closed("the other side closed the channel")
        data += chunk
    return bytes(data)
