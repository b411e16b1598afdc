"""Ctrl-C, SIGTERM and a closed terminal: counted during a run, so that none interrupts the ending of the run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_MEANINGS = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGTERM: "`stop`, a SIGTERM of a scheduler, or the end of the program that launched it",
    signal.SIGHUP: "its terminal was closed",
}
_SIGNALS = tuple(_MEANINGS)


class Interrupts:
    """`count` is how often the user asked the run to end. More than once means to end it quickly. `why` names the first."""

    count = 0
    why = ""

    def note(self, number: int = signal.SIGINT, *_: object) -> None:
        self.count += 1
        self.why = self.why or _MEANINGS[signal.Signals(number)]


def treat_as_ctrl_c() -> None:
    """Let a scheduler's stop (SIGTERM) and a closed terminal end this process as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def ignore_signals() -> None:
    """Ignore all of these signals from now on."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


_current: Interrupts | None = None


@contextmanager
def count_interrupts() -> Iterator[Interrupts]:
    """Count the signals inside this context instead of raising. A nested context shares the outer one's count.

    A signal that this process was started to ignore (nohup, a shell's `&`) stays ignored.
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
