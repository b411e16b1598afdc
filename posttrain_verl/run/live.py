"""What a launch shows while it runs: one line that changes under the log on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from rich.console import Console
from rich.text import Text

REFRESHES = 2  # a second; more would cost more than all of the following

Report = Callable[[str], None]


class Output:
    """The standard output. Where nobody reads any more (`| head`, a terminal that was closed) a run goes on without a word."""

    def __init__(self) -> None:
        self._stream = sys.stdout

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
        """Let what is printed from now on, at the end of the interpreter too, go nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        return 0


def say(line: str) -> None:
    print(line, file=cast(TextIO, Output()), flush=True)


@contextmanager
def line() -> Iterator[tuple[Report, Report | None]]:
    """Yield how to print a line that stays and how to change the one that does not; None for that without a terminal."""
    if not sys.stdout.isatty():
        yield say, None
        return
    console = Console(file=cast(TextIO, Output()), highlight=False)
    with console.status("starting", refresh_per_second=REFRESHES) as status:
        yield (lambda text: console.print(Text(text))), (lambda text: status.update(Text(text)))
