"""What verbs print: tables, and the lines of progress that every module logs and the command line shows."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:  # verbs that print neither a table nor a changing line should not pay for rich
    from rich.console import Console

LINE_SECONDS = 20.0
LIVE = logging.INFO - 5  # the level of the line that changes in place; enabled only where a terminal shows it

log = logging.getLogger("posttrain_verl")
_SHOWN = (log, logging.getLogger("data_prep"))


def stdout() -> Console:
    """Rich's console on the standard output, texts in one colour."""
    from rich.console import Console

    # Without a terminal rich would fold tables at 80 columns.
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


@contextmanager
def hidden_bars() -> Iterator[None]:
    """Without the progress bars of transformers: they are of other lines than ours, and of a model that is there in a moment."""
    from transformers.utils import logging as of_transformers  # only who loads a model should pay for it

    are_shown = of_transformers.is_progress_bar_enabled()
    of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        if are_shown:
            of_transformers.enable_progress_bar()


class Output:
    """A standard stream. When nobody reads it any more (`| head`, a closed terminal), the work continues in silence."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            return self._be_silent()

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._be_silent()

    def _be_silent(self) -> int:
        """Discard what is printed from now on, also when the interpreter ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        return 0


class _Lines(logging.Handler):
    """Hands every line to `show`, and the line that changes in place to `change`."""

    def __init__(self, show: Callable[[str], object], change: Callable[[str], object]) -> None:
        super().__init__()
        self._show, self._change = show, change

    def emit(self, record: logging.LogRecord) -> None:
        (self._change if record.levelno == LIVE else self._show)(record.getMessage())


@contextmanager
def shown(show: Callable[[str], object], change: Callable[[str], object] | None = None) -> Iterator[None]:
    """Within it, pass what is logged to `show`, in the place of an outer `shown`. Without either, the library is silent."""
    before = [(logger, logger.handlers, logger.level, logger.propagate) for logger in _SHOWN]
    for logger in _SHOWN:
        logger.handlers, logger.propagate = [_Lines(show, change or show)], False
        logger.setLevel(LIVE if change else logging.INFO)
    try:
        yield
    finally:
        for logger, handlers, level, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


@contextmanager
def counted_progress(what: str, total: int, done: int, unit: str) -> Iterator[Callable[[str], object]]:
    """Show how many of `total` are done: call what is yielded for one more, with a remark.

    A verb has a bar on the standard error. In a program of the user's a line is logged at the end, and every 20 s before.
    """
    if any(isinstance(handler, _Lines) for handler in log.handlers):
        from tqdm import tqdm

        with tqdm(total=total, initial=done, desc=what, unit=unit) as bar:
            yield lambda remark: (bar.set_postfix_str(remark, refresh=False), bar.update())
        return
    shown, remark = time.monotonic(), ""

    def count(said: str) -> None:
        nonlocal shown, done, remark
        done, remark = done + 1, f", {said}"
        if time.monotonic() - shown > LINE_SECONDS:
            shown = time.monotonic()
            log.info(f"{what}: {done} of {total} {unit}s{remark}")

    try:
        yield count
    finally:
        log.info(f"{what}: {done} of {total} {unit}s{remark}")


def printer(stream: TextIO) -> Callable[[str], None]:
    """A function that prints a line to a standard stream at once."""
    return lambda line: print(line, file=cast(TextIO, Output(stream)), flush=True)


@contextmanager
def status_line() -> Iterator[None]:
    """Show what is logged on the standard output. A terminal shows it above one line that changes in place."""
    if not sys.stdout.isatty():
        with shown(printer(sys.stdout)):
            yield
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=cast(TextIO, Output(sys.stdout)), highlight=False)
    with (
        console.status("starting", refresh_per_second=2) as status,  # more would cost more than following a run does
        shown(lambda text: console.print(Text(text)), lambda text: status.update(Text(text))),
    ):
        yield
