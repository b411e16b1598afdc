"""Numbers of more digits than Python reads or writes by default (4,300), which exercises ask for."""

import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

_LONG = re.compile(r"\d{4000}")
_lock = threading.RLock()


@contextmanager
def _unlimited() -> Iterator[None]:
    """The limit belongs to the interpreter: it is lifted for one reader at a time, and only for text that needs it."""
    with _lock:
        kept = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        try:
            yield
        finally:
            sys.set_int_max_str_digits(kept)


def reading(text: str) -> Any:
    """A context in which `text` can be parsed, whatever numbers stand in it."""
    return _unlimited() if _LONG.search(text) else nullcontext()


def load_numbers(text: str) -> Any:
    """As json.loads. Raises ValueError."""
    with reading(text):
        return json.loads(text)


def dump_numbers(value: object) -> str:
    """As json.dumps. Raises ValueError for what is no data."""
    try:
        return json.dumps(value)
    except ValueError:
        with _unlimited():
            return json.dumps(value)
