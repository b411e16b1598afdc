"""Reading metrics.jsonl, VeRL's `file` logger: one `{"step", "data"}` a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain_verl.run.folder import Status

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
    """Follows a growing metrics.jsonl: `read` yields the complete lines that came since the last call; `offset` is in bytes."""

    def __init__(self, path: Path):
        self._path = path
        self.offset = 0

    def read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from map(parse, self.read_lines())

    def read_lines(self) -> Iterator[bytes]:
        """The lines as they are in the file, but for one that a full disk broke."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                if is_whole(line):
                    yield line


def is_whole(line: bytes) -> bool:
    """Whether it is a record, and not the beginning of one: a reader may come while it is written, or the disk was full."""
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def parse(line: bytes) -> tuple[int, dict[str, Any]]:
    """The step of a line and what was measured in it."""
    record = json.loads(line)
    return int(record["step"]), record["data"]


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
        f"{key.removeprefix('val-core/')} {value:.4g}"
        for key, value in metrics.items()
        if key.startswith("val-core/") and isinstance(value, int | float)  # VeRL's logger writes NaN as null
    ]
    return f"step {step}: " + ", ".join(parts)


def progress_line(status: Status, metrics: dict[str, Any], step_seconds: float | None) -> str:
    """What the live line of a run says: stage, step, reward or loss, length, tokens/s, and when it will be done."""
    total = f"/{status.total_steps}" if status.total_steps else ""
    doing = "starting" if status.last_step is None else "training"
    parts = [status.stage or doing, f"step {status.last_step or 0}{total}"]
    parts += [
        f"{SHOWN[key]} {metrics[key]:.4g}"
        for key in ("critic/score/mean", "train/loss", "response_length/mean")
        if isinstance(metrics.get(key), int | float)
    ]
    if speed := tokens_per_second(metrics, step_seconds):
        parts.append(f"{speed:.0f} tokens/s")
    if status.total_steps and step_seconds and status.last_step is not None:
        parts.append(f"ETA {duration(step_seconds * (status.total_steps - status.last_step))}")
    return ", ".join(parts)


def tokens_per_second(metrics: dict[str, Any], step_seconds: float | None) -> float | None:
    """Tokens of a step over its time: of all GPUs, prompts and responses, padding not counted."""
    tokens = metrics.get("perf/total_num_tokens", metrics.get("train/global_tokens"))
    seconds = metrics.get("perf/time_per_step", step_seconds)
    return tokens / seconds if tokens and seconds else None


def duration(seconds: float) -> str:
    """`3 d 4 h`, `1 h 5 min`, `12 min`, `40 s`."""
    minutes = int(seconds) // 60
    if minutes >= 48 * 60:
        return f"{minutes // 1440} d {minutes // 60 % 24} h"
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
