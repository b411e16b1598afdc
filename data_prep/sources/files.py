"""Raw rows from jsonl, csv, Parquet or the Hugging Face hub, streamed."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import DataError, Problem
from data_prep.manifest import file_sha256
from data_prep.sources.source import BATCH_ROWS, Row, SourceSpec

FORMATS = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_HEAD = 64  # bytes looked at
COMPRESSED = (".gz", ".zst", ".bz2")
OPTIONS = ("path", "format", "hub", "config", "split", "revision")


def paths(spec: SourceSpec) -> list[Path]:
    """The files that `path` names: one file, or a pattern such as data/part-*.parquet, sorted by name."""
    given = Path(str(spec.options["path"])).expanduser()
    if given.is_dir():
        raise _problem(spec, f"{given} is a folder", f"name its files, such as {given}/*.parquet")
    found = [given] if given.is_file() else sorted(path for name in glob(str(given)) if (path := Path(name)).is_file())
    if not found:
        raise _problem(spec, f"{given} is no file", "correct the path of this source")
    return found


def provenance(spec: SourceSpec, hub: str | None, revision: str | None) -> dict[str, Any]:
    """What makes the rows again: names and sha256 of local files, or the hub's name and exact commit."""
    if "path" in spec.options:
        try:
            return {"files": {path.name: file_sha256(path) for path in paths(spec)}}
        except OSError as error:
            raise _problem(
                spec, f"{error.filename} cannot be read ({error.strerror})", "see to its permissions"
            ) from None
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
            if twice := sorted(name for name, count in Counter(known).items() if count > 1):
                raise _problem(spec, f"{path.name} has two columns named {twice}", "rename one of them")
            number = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                yield _utf8(spec, path, batch, number)
                number += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise _problem(
            spec, f"{path.name} cannot be read as Parquet ({error})", "copy or write the file again"
        ) from None


def _utf8(spec: SourceSpec, path: Path, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    """A batch whose texts are valid UTF-8, which Parquet does not promise: others are errors, or null with
    `bad_rows: drop`."""
    try:
        batch.validate(full=True)
        return batch
    except pa.ArrowInvalid:
        pass
    columns = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            cells = [_decoded(cell) for cell in column.cast(pa.large_binary()).to_pylist()]
            wrong = [row for row, cell in enumerate(cells) if cell is None and column[row].is_valid]
            if wrong and spec.bad_rows != "drop":
                where = f"source {spec.name}, {path.name} row {first + wrong[0]}"
                remedy = "write the file again as UTF-8, or set bad_rows: drop"
                raise DataError(Problem(where, f"{name} is no valid UTF-8", remedy))
            column = pa.array(cells, column.type)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _decoded(cell: bytes | None) -> str | None:
    try:
        return None if cell is None else cell.decode()
    except UnicodeDecodeError:
        return None


@contextmanager
def _bytes(spec: SourceSpec, path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, unpacked where its name says that it is packed."""
    try:
        with io.BufferedReader(pa.input_stream(str(path), compression="detect")) as stream:
            yield stream
    except (OSError, pa.ArrowInvalid) as error:
        raise _problem(spec, f"{path.name} cannot be read ({error})", "copy or write the file again") from None


def _jsonl(spec: SourceSpec, path: Path) -> Iterator[Row]:
    problems = []
    with _bytes(spec, path) as stream:
        for place, row, what in _entries(stream):
            if isinstance(row, dict):
                yield row
            elif spec.bad_rows == "drop":
                yield {}
            else:
                where = f"source {spec.name}, {path.name} {place}"
                what = what or f"is {type(row).__name__}, not an object"
                problems.append(Problem(where, what, "correct the line, or set bad_rows: drop"))
    if problems:
        raise DataError(*problems[:20])


def _entries(stream: io.BufferedReader) -> Iterator[tuple[str, Any, str]]:
    """(place, entry, why it cannot be read) of each line, or of one list of objects, as .json files often are."""
    lines: Iterable[bytes] = stream
    if stream.peek(_HEAD).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        text = stream.read()
        whole = _object(text)[0]
        if isinstance(whole, list) and (not whole or isinstance(whole[0], dict)):
            yield from ((f"entry {number}", row, "") for number, row in enumerate(whole, 1))
            return
        lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"line {number}", *_object(line)


def _object(line: bytes) -> tuple[Any, str]:
    """What a line holds, or None and why that cannot be said."""
    try:
        return json.loads(line), ""
    except (ValueError, RecursionError) as error:
        return None, f"is no JSON ({error})"


def _csv(spec: SourceSpec, path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    try:
        with _bytes(spec, path) as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            table = csv.DictReader(text, strict=True, delimiter="\t" if ".tsv" in path.suffixes else ",")
            names = table.fieldnames or []
            if twice := sorted(name for name, count in Counter(names).items() if count > 1):
                raise _problem(spec, f"{path.name} has two columns named {twice}", "rename one of them")
            yield from table
    except (UnicodeDecodeError, csv.Error) as error:
        raise _problem(
            spec, f"{path.name} cannot be read as csv ({error})", "save it as UTF-8 csv, or as jsonl"
        ) from None


def _format(spec: SourceSpec, path: Path) -> str:
    suffix = path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix
    kind = spec.options.get("format") or FORMATS.get(suffix)
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
