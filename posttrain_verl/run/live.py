"""What a launch shows while it runs: one line that changes under the log on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

REFRESHES = 2  # a second; more would cost more than all of the following

Report = Callable[[str], None]


def say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def line() -> Iterator[tuple[Report, Report | None]]:
    """Yield how to print a line that stays and how to change the one that does not; None for that without a terminal."""
    if not sys.stdout.isatty():
        yield say, None
        return
    console = Console(highlight=False)
    with console.status("starting", refresh_per_second=REFRESHES) as status:
        yield (lambda text: console.print(Text(text))), (lambda text: status.update(Text(text)))
