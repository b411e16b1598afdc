"""Reading metrics.jsonl, VeRL's `file` logger: one `{"step", "data"}` a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHOWN = {  # VeRL's key -> the word in a step's line
    "critic/score/mean": "reward",
    "train/loss": "loss",
    "val/loss": "val loss",
    "response_length/mean": "length",
    "actor/grad_norm": "grad",
    "train/grad_norm": "grad",
    "timing_s/step": "s/step",
}


class MetricsTail:
    """Follows a growing metrics.jsonl: `read` yields the complete lines that came since the last call."""

    def __init__(self, path: Path):
        self._path = path
        self._offset = 0

    def read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                record = json.loads(line)
                yield int(record["step"]), record["data"]


def by_step(path: Path) -> dict[int, dict[str, Any]]:
    """What was measured in each step, in its order; a validation is a line of its own in the file."""
    found: dict[int, dict[str, Any]] = {}
    for record in map(json.loads, path.read_text().splitlines()):
        found.setdefault(int(record["step"]), {}).update(record["data"])
    return dict(sorted(found.items()))


def step_line(step: int, metrics: dict[str, Any]) -> str:
    """One line for a reader: the step and what of `SHOWN` it measured."""
    parts = [f"{word} {metrics[key]:.4g}" for key, word in SHOWN.items() if isinstance(metrics.get(key), int | float)]
    parts += [
        f"{key.removeprefix('val-core/')} {value:.4g}" for key, value in metrics.items() if key.startswith("val-core/")
    ]
    return f"step {step}: " + ", ".join(parts)
