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
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_MESSAGE = 32 << 20
SAFE_INTEGER = 1 << 53
HEADER = struct.Struct("!I")
SEQUENCES: tuple[tuple[Any, str], ...] = ((list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "frozenset"))
MUTABLE = (list, dict, set, deque, bytearray)


class Closed(ConnectionError):
    """The other side is gone."""


def encode(value: object, opaque: Callable[[object], object]) -> object:
    """`value` as JSON data. What is no plain data goes through `opaque`, which gives JSON data or raises."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        number = int.__add__(value, 0)
        return number if -SAFE_INTEGER < number < SAFE_INTEGER else {"int": hex(number)}
    if isinstance(value, float):
        real = float.__add__(value, 0.0)
        return real if math.isfinite(real) else {"float": repr(real)}
    if isinstance(value, str):
        return encode_text(str.__str__(value))
    for kind, tag in SEQUENCES:
        if isinstance(value, kind):
            return {tag: [encode(item, opaque) for item in kind.__iter__(value)]}
    if isinstance(value, dict):
        return {"dict": [[encode(k, opaque), encode(v, opaque)] for k, v in dict.items(value)]}
    return encode_rare(value, opaque)


def encode_text(text: str) -> object:
    """Text as it is; with lone surrogates, which JSON in UTF-8 cannot carry, as bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return {"str": text.encode("utf-8", "surrogatepass").hex()}
    return text


def encode_rare(value: object, opaque: Callable[[object], object]) -> object:
    """The types that tests seldom see."""
    if isinstance(value, bytes | bytearray):
        return {type(value).__name__: bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [repr(value.real), repr(value.imag)]}
    if isinstance(value, Fraction | Decimal):
        return {"Fraction" if isinstance(value, Fraction) else "Decimal": str(value)}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, datetime):
        return {"datetime": datetime.isoformat(value)}
    if isinstance(value, date):
        return {"date": date.isoformat(value)}
    if isinstance(value, timedelta):
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, deque):
        return {"deque": [encode(item, opaque) for item in deque.__iter__(value)]}
    return opaque(value)


CONSTRUCTORS: dict[str, Callable[..., object]] = {
    "int": lambda text: int(text, 16),
    "float": float,
    "str": lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda pair: complex(float(pair[0]), float(pair[1])),
    "Fraction": Fraction,
    "Decimal": Decimal,
    "range": lambda bounds: range(*bounds),
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "timedelta": lambda parts: timedelta(*parts),
}
COLLECTIONS: dict[str, Callable[[Iterable[object]], object]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
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
    return CONSTRUCTORS[tag](body)


def send(channel: socket.socket, message: object) -> None:
    data = json.dumps(message).encode()
    if len(data) > MAX_MESSAGE:
        raise ValueError(f"a value of {len(data)} bytes is larger than the {MAX_MESSAGE} that may pass")
    channel.sendall(HEADER.pack(len(data)) + data)


def receive(channel: socket.socket) -> dict[str, object]:
    """The next message. Raises Closed, or ValueError when it is too large or no JSON object."""
    (size,) = HEADER.unpack(exactly(channel, HEADER.size))
    if size > MAX_MESSAGE:
        raise ValueError("message too large")
    message = json.loads(exactly(channel, size))
    if not isinstance(message, dict):
        raise ValueError("message is no object")
    return message


def exactly(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = channel.recv(min(size - len(data), 1 << 20))
        if not chunk:
            raise Closed("the other side closed the channel")
        data += chunk
    return bytes(data)
