"""Raw rows from jsonl, csv, Parquet or the Hugging Face hub, streamed."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import DataError, Problem
from data_prep.manifest import file_sha256
from data_prep.sources.source import BATCH_ROWS, Row, SourceSpec

FORMATS = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet"}
OPTIONS = ("path", "format", "hub", "config", "split", "revision")


def paths(spec: SourceSpec) -> list[Path]:
    """The files that `path` names: one file, or a pattern such as data/part-*.parquet, sorted by name."""
    given = Path(str(spec.options["path"])).expanduser()
    found = [given] if given.is_file() else sorted(p for p in given.parent.glob(given.name) if p.is_file())
    if not found:
        raise _problem(spec, f"{given} is no file", "correct the path of this source")
    return found


def provenance(spec: SourceSpec, hub: str | None, revision: str | None) -> dict[str, Any]:
    """What makes the rows again: names and sha256 of local files, or the hub's name and exact commit."""
    if "path" in spec.options:
        return {"files": {path.name: file_sha256(path) for path in paths(spec)}}
    if hub is None:
        raise _problem(spec, "has neither path nor hub", "give path: FILE, or hub: OWNER/NAME")
    return {"hub": hub, "revision": resolved_revision(spec, hub, revision), "options": dict(spec.options)}


def resolved_revision(spec: SourceSpec, hub: str, revision: str | None) -> str:
    """The commit that `revision` (a branch, a tag, a commit, or None for the newest) stands for on the hub."""
    from huggingface_hub import HfApi

    with _hub_errors(spec, hub):
        return str(HfApi().dataset_info(hub, revision=revision).sha)


def hub_rows(spec: SourceSpec, hub: str, config: str | None, split: str, revision: str) -> Iterator[Row]:
    """Rows of a data set on the hub, streamed at one revision."""
    from datasets import load_dataset

    with _hub_errors(spec, hub):
        yield from load_dataset(hub, config, split=split, revision=revision, streaming=True)


def rows(spec: SourceSpec) -> Iterator[Row]:
    """Rows of the local files, one mapping each."""
    for path in paths(spec):
        kind = _format(spec, path)
        if kind == "jsonl":
            yield from _jsonl(spec, path)
        elif kind == "csv":
            yield from _csv(spec, path)
        else:
            for batch in parquet_batches(spec, path):
                yield from batch.to_pylist()


def is_parquet(spec: SourceSpec) -> bool:
    """Whether all local files are Parquet, which can be read without making Python rows."""
    return "path" in spec.options and all(_format(spec, path) == "parquet" for path in paths(spec))


def parquet_batches(spec: SourceSpec, path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of one Parquet file. Raises DataError if it is damaged."""
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            known = file.schema_arrow.names
            missing = sorted(set(columns or ()) - set(known))
            if missing:
                raise _problem(spec, f"{path.name} has no column {missing}", f"map to one of: {', '.join(known)}")
            yield from file.iter_batches(BATCH_ROWS, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise _problem(
            spec, f"{path.name} cannot be read as Parquet ({error})", "copy or write the file again"
        ) from None


def _jsonl(spec: SourceSpec, path: Path) -> Iterator[Row]:
    problems = []
    with path.open("rb") as stream:
        for number, line in enumerate(stream):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                row, what = None, f"is no JSON ({error})"
            else:
                what = f"is {type(row).__name__}, not an object"
            if isinstance(row, dict):
                yield row
            elif spec.bad_rows == "drop":
                yield {}
            else:
                problems.append(
                    Problem(
                        f"source {spec.name}, {path.name} line {number + 1}",
                        what,
                        "correct the line, or set bad_rows: drop",
                    )
                )
    if problems:
        raise DataError(*problems[:20])


def _csv(spec: SourceSpec, path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            yield from csv.DictReader(stream, strict=True)
    except (UnicodeDecodeError, csv.Error) as error:
        raise _problem(
            spec, f"{path.name} cannot be read as csv ({error})", "save it as UTF-8 csv, or as jsonl"
        ) from None


def _format(spec: SourceSpec, path: Path) -> str:
    kind = spec.options.get("format") or FORMATS.get(path.suffix)
    if kind not in FORMATS.values():
        raise _problem(
            spec,
            f"{path.name} has no known format",
            f"set format to one of {', '.join(dict.fromkeys(FORMATS.values()))}",
        )
    return str(kind)


@contextmanager
def _hub_errors(spec: SourceSpec, hub: str) -> Iterator[None]:
    """A hub that cannot be reached, or has no such set, is the user's to know, not a traceback."""
    import httpx
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except (DatasetsError, HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError, ValueError) as error:
        what = f"{hub} cannot be read from the hub ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
        remedy = "check name, revision and network, or give path: FILE with the same columns"
        raise _problem(spec, what, remedy) from None


def _problem(spec: SourceSpec, what: str, remedy: str) -> DataError:
    return DataError(Problem(f"source {spec.name}", what, remedy))
