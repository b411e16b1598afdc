"""Ctrl-C, SIGTERM and a closed terminal while a run is conducted: counted, so that none breaks into the ending of the run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """`count` is how often the run was asked to end: once is to end it, more than once to be quick about it."""

    count = 0

    def note(self, *_: object) -> None:
        self.count += 1


def as_ctrl_c() -> None:
    """Let a scheduler's stop (SIGTERM), and a terminal that is closed, end this process as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def ignore() -> None:
    """From now on, let no such signal do anything."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


_current: Interrupts | None = None


@contextmanager
def noted() -> Iterator[Interrupts]:
    """Within it the signals raise nothing and are counted; within another one its count goes on.

    A signal that whoever started this process lets it ignore (nohup, a shell's `&`) stays ignored.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield _current or Interrupts()
        return
    _current = counted = Interrupts()
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number in [one for one, handler in before.items() if handler is not signal.SIG_IGN]:
            signal.signal(number, counted.note)
        yield counted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _current = None
