"""What happened in a run, for a reader: a line a step and what the watch saw, in place of all that VeRL and Ray print."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.output import MetricsTail, is_whole_line, step_line


@dataclass
class Digest:
    """The digest of one run. `read` returns the lines that came since the last call, those of a step before its events."""

    folder: RunFolder

    def __post_init__(self) -> None:
        self._metrics, self._seen, self._resumes = MetricsTail(self.folder.metrics), 0, 0

    def read(self) -> list[str]:
        """The new lines, by step. A validation is a line of its own in metrics.jsonl, and joins its step where both are new."""
        if self.folder.metrics.exists() and self.folder.metrics.stat().st_size < self._metrics.offset:
            self._metrics.offset = 0  # a resume cut what it will train again
        steps: dict[int, dict[str, object]] = {}
        for step, measured in self._metrics.read():
            steps.setdefault(step, {}).update(measured)
        found = [(float(step), 0, step_line(step, measured)) for step, measured in steps.items()]
        last = max(steps, default=0)
        events = list(self._read_events())
        found += [(float(last if step is None else step), 1, line) for step, line in events]
        found += [(float(step), 2, line) for step, line in self._read_resumes()]
        return [line for _, _, line in sorted(found, key=lambda each: each[:2])]

    def _read_resumes(self) -> Iterator[tuple[int, str]]:
        """A line for each attempt after the first, at the step that it resumed from."""
        pairs = list(pairwise(self.folder.read_attempts(self.folder.read_status())))
        for before, attempt in pairs[self._resumes :]:
            step = attempt.resumed_from or 0
            reason = f"; before: {first}" if (first := before.why.partition("\n")[0]) else ""
            yield step, f"attempt {attempt.attempt} resumes from step {step}{reason}"
        self._resumes = len(pairs)

    def _read_events(self) -> Iterator[tuple[int | None, str]]:
        if not self.folder.events.exists():
            return
        lines = [line for line in self.folder.events.read_bytes().splitlines(keepends=True) if is_whole_line(line)]
        for line in lines[self._seen :]:
            event = json.loads(line)
            yield event["step"], event_line(event)
        self._seen = len(lines)


def event_line(event: dict[str, object]) -> str:
    """A line of events.jsonl for a reader: what the watch saw, and what it did or advises."""
    where = f" at step {event['step']}" if event.get("step") is not None else ""
    why = f"; {event['why']}" if event.get("why") else ""
    return f"{event['level']}: {event['rule']}{where}: {event['saw']}{why}"


def follow_digest(digest: Digest, done: Iterator[bool]) -> Iterator[str]:
    """The lines that come from now on, until `done` yields true and all of them are read."""
    for ended in done:
        yield from digest.read()
        if ended:
            return
        time.sleep(0.2)
