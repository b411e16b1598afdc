"""Reading the files of a run folder. Any of them may be missing or half written: a page shows what is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import yaml

Record = dict[str, Any]


class Files:
    """The files of one folder; `flaws` says which of them could not be read, and why."""

    def __init__(self, path: Path):
        self.path = path
        self.flaws: list[str] = []

    def json(self, name: str | Path) -> Record:
        """A JSON object, or an empty one where there is none."""
        return self._object(name, orjson.loads)

    def yaml(self, name: str) -> Record:
        """A YAML mapping, or an empty one where there is none."""
        return self._object(name, lambda raw: yaml.load(raw, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))

    def lines(self, name: str) -> list[Record]:
        """The objects of a file with one JSON object a line; lines that are none are counted as a flaw."""
        found, bad = [], 0
        for line in (self._bytes(name) or b"").splitlines():
            record = parsed(line)
            if record is None:
                bad += 1
            else:
                found.append(record)
        if bad:
            self.flaws.append(f"{name}: {bad} of {bad + len(found)} lines are no JSON object")
        return found

    def text(self, name: str) -> str:
        """The file as text, empty where there is none."""
        return (self._bytes(name) or b"").decode(errors="replace")

    def _object(self, name: str | Path, read: Any) -> Record:
        raw = self._bytes(name)
        if raw is None:
            return {}
        try:
            found = read(raw)
        except (ValueError, yaml.YAMLError) as error:
            self.flaws.append(f"{name} cannot be read: {str(error).splitlines()[0]}")
            return {}
        if not isinstance(found, dict):
            self.flaws.append(f"{name} holds no object")
            return {}
        return found

    def _bytes(self, name: str | Path) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self.flaws.append(f"{name} cannot be read: {error.strerror}")
            return None


def parsed(line: bytes) -> Record | None:
    """The object of one line, or None. Python's json also reads NaN and Infinity, which VeRL writes and orjson refuses."""
    try:
        found = orjson.loads(line)
    except ValueError:
        try:
            found = json.loads(line)
        except ValueError:
            return None
    return found if isinstance(found, dict) else None
