"""metrics.jsonl as columns: for each of VeRL's keys the steps at which it was measured, and its values."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from posttrain_verl.reporting.files import parsed

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Series:
    """One metric: `steps` (n,) ascending and `values` (n,), which may hold NaN and infinities."""

    steps: Ints
    values: Floats

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def finite(self) -> Floats:
        return self.values[np.isfinite(self.values)]

    def ends(self) -> tuple[float, float] | None:
        """The means of the first and the last tenth of what is finite; None with fewer than two values."""
        values = self.finite
        if len(values) < 2:
            return None
        tenth = max(1, len(values) // 10)
        return float(values[:tenth].mean()), float(values[-tenth:].mean())


EMPTY = Series(np.empty(0, np.int64), np.empty(0))


@dataclass
class Metrics:
    """The numbers of metrics.jsonl. A step that stands there twice, since the run was resumed, counts as written last."""

    columns: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    bad_lines: int = 0
    _offset: int = 0

    def follow(self, path: Path) -> Metrics:
        """Read the complete lines that were written since the last call."""
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return self
        if size < self._offset:
            self.columns.clear()
            self._offset = self.bad_lines = 0
        with path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._take(line)
        return self

    def _take(self, line: bytes) -> None:
        record = parsed(line)
        if record is None or not isinstance(record.get("data"), dict):
            self.bad_lines += 1
            return
        step = int(record.get("step", 0))
        for key, value in record["data"].items():
            if (number := _number(value)) is not None:
                self.columns[key][step] = number

    def __getitem__(self, key: str) -> Series:
        found = self.columns.get(key)
        if not found:
            return EMPTY
        steps = np.fromiter(found.keys(), np.int64, len(found))
        order = np.argsort(steps, kind="stable")
        return Series(steps[order], np.fromiter(found.values(), np.float64, len(found))[order])

    def first(self, *keys: str) -> Series:
        """The first of several keys that was measured."""
        return next((self[key] for key in keys if key in self.columns), EMPTY)

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin with `prefix`, sorted."""
        return sorted(key for key in self.columns if key.startswith(prefix))

    @property
    def last_step(self) -> int | None:
        return max((max(column) for column in self.columns.values() if column), default=None)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def dumps(value: Any) -> bytes:
    """JSON of plain values and NumPy arrays; what is not finite becomes null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
