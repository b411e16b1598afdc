"""pipeline.json: the stages of a pipeline with their state, their time, and the run each left."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain_verl.problem import InputError
from posttrain_verl.run.folder import replace

DONE, RUNNING, FAILED, INTERRUPTED, WAITING = "done", "running", "failed", "interrupted", "waiting"


class Journal:
    """The stages as they stand; written whole after every change."""

    def __init__(self, home: Path, facts: dict[str, Any]):
        self._file = home / "pipeline.json"
        before = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self._stages: dict[str, dict[str, Any]] = {stage["name"]: stage for stage in before.get("stages", [])}
        self._facts = facts

    def seconds(self, name: str) -> float:
        """What a stage has taken so far, over all tries."""
        return float(self._stages.get(name, {}).get("seconds", 0.0))

    def note(self, name: str, **facts: Any) -> None:
        """Record facts of a stage: `state`, `run` (relative to the pipeline's folder), `why` ..."""
        self._stages.setdefault(name, {"name": name}).update(facts)
        text = json.dumps({**self._facts, "stages": list(self._stages.values())}, indent=2)
        replace(self._file, text + "\n")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, and say how it ended."""
        began, earlier = time.monotonic(), self.seconds(name)
        self.note(name, state=RUNNING)
        state = FAILED
        try:
            yield
            state = DONE
        except KeyboardInterrupt:
            state = INTERRUPTED
            raise
        except InputError:  # something that the user has to do first
            state = WAITING
            raise
        finally:
            self.note(name, state=state, seconds=round(earlier + time.monotonic() - began, 1))
