"""What benchmarks against another program share: its environment, and what each side did."""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENTS = Path(__file__).parent / ".peers"


def ensure_environment(name: str, requirements: Sequence[str]) -> Path:
    """The Python of the peer's own environment, which is installed at the first call. Raises CalledProcessError."""
    home = ENVIRONMENTS / name
    python, complete = home / "bin" / "python", home / ".complete"  # written last: what was cut off is made again
    if not complete.exists():
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *requirements], check=True)
        complete.touch()
    return python


@dataclass(frozen=True)
class Side:
    """What one side did: tokens written, seconds of tokenizing and generating, seconds of the whole command."""

    tokens: int
    generating: float
    whole: float

    def __str__(self) -> str:
        return (f"{self.tokens} tokens; {self.tokens / self.generating:.1f} tokens/s generating ({self.generating:.1f} s), "
                f"{self.tokens / self.whole:.1f} with the start ({self.whole:.1f} s)")  # fmt: skip
