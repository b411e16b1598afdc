"""Where verbs print their tables."""

import sys

from rich.console import Console

PIPED = 160  # columns where the output is no terminal: rich would fold tables at 80


def stdout() -> Console:
    """The standard output as rich knows it, texts in one colour."""
    return Console(width=None if sys.stdout.isatty() else PIPED, highlight=False)
