"""Raw rows from jsonl, csv, Parquet or the Hugging Face hub, streamed; and the declaration of a source that reads them."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import DataError, Problem
from data_prep.manifest import file_sha256
from data_prep.sources.source import (
    BATCH_ROWS,
    BrokenRow,
    Opened,
    Row,
    Source,
    SourceSpec,
    as_number,
    convert_rows,
    required_text,
)

FORMATS = {".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_HEAD = 64  # bytes looked at
COMPRESSED = (".gz", ".zst", ".bz2")


class FileSpec(SourceSpec):
    """Rows of local files (`path`), or of the hub."""

    path: str | None = None
    format: Literal["jsonl", "csv", "parquet"] | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None


def local_files(spec: FileSpec) -> list[Path]:
    """The files that `path` names: one file, or a pattern such as data/part-*.parquet, sorted by name."""
    given = Path(str(spec.path)).expanduser()
    if given.is_dir():
        endings = sorted({path.suffix for path in given.iterdir()} & set(FORMATS)) or [".parquet"]
        raise _source_problem(spec, f"{given} is a folder", f"name its files, such as {given}/*{endings[0]}")
    found = [given] if given.is_file() else sorted(path for name in glob(str(given)) if (path := Path(name)).is_file())
    if not found:
        raise _source_problem(spec, f"{given} is not a file", "correct the path of this source")
    return found


def opened(
    spec: FileSpec, hub: str | None, config: str | None = None, split: str = "train", revision: str | None = None
) -> tuple[dict[str, Any], Iterator[Row]]:
    """What makes the rows again, and the rows, streamed: names, sha256 and sizes of local files, or the hub's name and the commit
    that `revision` (a branch, a tag, a commit, or None for the newest) stands for."""
    if spec.path is not None:
        try:
            found = local_files(spec)
            sizes = {path.name: path.stat().st_size for path in found}
            return {"files": {path.name: file_sha256(path) for path in found}, "bytes": sizes}, local_rows(spec)
        except OSError as error:
            what = f"{error.filename} cannot be read ({error.strerror})"
            raise _source_problem(spec, what, "see to its permissions") from None
    if hub is None:
        raise _source_problem(spec, "has neither path nor hub", "give path: FILE, or hub: OWNER/NAME")
    from datasets import load_dataset
    from huggingface_hub import HfApi

    with _hub_errors(spec, hub):
        commit = str(HfApi().dataset_info(hub, revision=revision).sha)

    def rows() -> Iterator[Row]:
        with _hub_errors(spec, hub):
            yield from load_dataset(hub, config, split=split, revision=commit, streaming=True)

    return {"hub": hub, "revision": commit, "options": spec.options()}, rows()


def local_rows(spec: FileSpec) -> Iterator[Row]:
    for path in local_files(spec):
        kind = _file_format(spec, path)
        if kind == "jsonl":
            yield from _jsonl_rows(spec, path)
        elif kind == "csv":
            yield from _csv_rows(spec, path)
        else:
            for batch in parquet_batches(spec, path):
                yield from batch.to_pylist()


def is_parquet(spec: FileSpec) -> bool:
    """Whether all local files are Parquet, which can be read without making Python rows."""
    return spec.path is not None and all(_file_format(spec, path) == "parquet" for path in local_files(spec))


def outer_column(column: str, known: Sequence[str]) -> str:
    """The column of a file that holds `column`: its own name, or that of the struct before its first dot."""
    return column if column in known else column.partition(".")[0]


def parquet_batches(spec: FileSpec, path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of one Parquet file, with `columns` of it. Raises DataError if it is damaged or lacks one of them."""
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            known = file.schema_arrow.names
            columns = columns and sorted({outer_column(column, known) for column in columns})
            missing = sorted(set(columns or ()) - set(known))
            if missing:
                remedy = f"map to one of: {', '.join(known)}"
                raise _source_problem(spec, f"{path.name} has no column {missing}", remedy)
            if twice := sorted(name for name, count in Counter(known).items() if count > 1):
                raise _source_problem(spec, f"{path.name} has two columns named {twice}", "rename one of them")
            number = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                yield _valid_utf8(spec, path, batch, number)
                number += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        what = f"{path.name} cannot be read as Parquet ({error})"
        raise _source_problem(spec, what, "copy or write the file again") from None


def _valid_utf8(spec: FileSpec, path: Path, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
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
            cells = [_decode_cell(cell) for cell in column.cast(pa.large_binary()).to_pylist()]
            wrong = [row for row, cell in enumerate(cells) if cell is None and column[row].is_valid]
            if wrong and spec.bad_rows != "drop":
                where = f"source {spec.name}, {path.name} row {first + wrong[0]}"
                remedy = "write the file again as UTF-8, or set bad_rows: drop"
                raise DataError(Problem(where, f"{name} is not valid UTF-8", remedy))
            column = pa.array(cells, column.type)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _decode_cell(cell: bytes | None) -> str | None:
    try:
        return None if cell is None else cell.decode()
    except UnicodeDecodeError:
        return None


@contextmanager
def _open_bytes(spec: FileSpec, path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, unpacked where its name says that it is packed."""
    try:
        with io.BufferedReader(pa.input_stream(str(path), compression="detect")) as stream:
            yield stream
    except (OSError, pa.ArrowInvalid) as error:
        raise _source_problem(spec, f"{path.name} cannot be read ({error})", "copy or write the file again") from None


def _jsonl_rows(spec: FileSpec, path: Path) -> Iterator[Row]:
    problems = []
    with _open_bytes(spec, path) as stream:
        for place, row, what in _json_entries(stream):
            what = what or f"is {type(row).__name__}, not an object"
            if isinstance(row, dict):
                yield row
            elif spec.bad_rows == "drop":
                yield BrokenRow(what, row)
            else:
                where = f"source {spec.name}, {path.name} {place}"
                problems.append(Problem(where, what, "correct the line, or set bad_rows: drop"))
    if problems:
        raise DataError(*problems[:20])


def _json_entries(stream: io.BufferedReader) -> Iterator[tuple[str, Any, str]]:
    """(place, entry, why it cannot be read) of each line, or of one list of objects, as .json files often are."""
    lines: Iterable[bytes] = stream
    if stream.peek(_HEAD).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        text = stream.read()
        whole = _parse_line(text)[0]
        if isinstance(whole, list) and (not whole or isinstance(whole[0], dict)):
            yield from ((f"entry {number}", row, "") for number, row in enumerate(whole, 1))
            return
        lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"line {number}", *_parse_line(line)


def _parse_line(line: bytes) -> tuple[Any, str]:
    """What a line holds, or its text and why it holds nothing."""
    try:
        return json.loads(line), ""
    except (ValueError, RecursionError) as error:
        return line.decode(errors="replace").strip(), f"is not JSON ({error})"


def _csv_rows(spec: FileSpec, path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    try:
        with _open_bytes(spec, path) as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            table = csv.reader(text, strict=True, delimiter="\t" if ".tsv" in path.suffixes else ",")
            names = next(table, [])
            if twice := sorted(name for name, count in Counter(names).items() if count > 1):
                raise _source_problem(spec, f"{path.name} has two columns named {twice}", "rename one of them")
            for cells in table:
                if len(cells) > len(names):
                    what = f"has {len(cells)} cells, and the header has {len(names)}"
                    yield BrokenRow(f"{what}: put a cell with a comma into quotes", cells)
                elif cells:
                    yield dict.fromkeys(names) | dict(zip(names, cells, strict=False))
    except (UnicodeDecodeError, csv.Error) as error:
        what = f"{path.name} cannot be read as csv ({error})"
        raise _source_problem(spec, what, "save it as UTF-8 csv, or as jsonl") from None


def _file_format(spec: FileSpec, path: Path) -> str:
    suffix = path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix
    kind = spec.format or FORMATS.get(suffix)
    if kind is None:
        known = ", ".join(dict.fromkeys(FORMATS.values()))
        raise _source_problem(spec, f"{path.name} has no known format", f"set format to one of {known}")
    return kind


@contextmanager
def _hub_errors(spec: FileSpec, hub: str) -> Iterator[None]:
    """A hub that cannot be reached, or has no such set, is the user's to know, not a traceback."""
    import httpx
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except (DatasetsError, HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError, ValueError) as error:
        what = f"{hub} cannot be read from the hub ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
        remedy = "check name, revision and network, or give path: FILE with the same columns"
        raise _source_problem(spec, what, remedy) from None


def _source_problem(spec: FileSpec, what: str, remedy: str) -> DataError:
    return DataError(Problem(f"source {spec.name}", what, remedy))


Reads = str | Callable[[Row], Any]  # a column, or what makes the value of a row


def hub_source(
    kind: str,
    hub: str,
    *,
    question: Reads,
    answer: Reads,
    solution: Reads | None = None,
    difficulty: Reads | None = None,
    id: str | None = None,
    data_source: str | None = None,
    ability: str = "math",
    uses: tuple[str, ...] = ("sft", "rl"),
    role: str = "",
    licence: str,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
) -> Source:
    """Declare a hub data set by what each part of an item is read from. `question`, `answer` and `solution` are columns that
    must hold a text, `difficulty` is one with a number or null, and `id` one that tells rows apart.

    `config`, `split` and `revision` are defaults that a mix can replace; without a revision the newest is read, and the
    manifest records which commit that was."""
    parts = {"question": question, "answer": answer, "solution": solution, "difficulty": difficulty}

    def item(row: Row) -> Row:
        made = {}
        for name, part in parts.items():
            if callable(part):
                made[name] = part(row)
            elif part is not None:
                made[name] = as_number(row.get(part), part) if name == "difficulty" else required_text(row, part)
        return made if id is None else made | {"id": f"{kind}/{row.get(id)}"}

    def open_rows(spec: FileSpec) -> Opened:
        defaults = {"config": config, "split": split, "revision": revision}
        given = {key: value for key, value in spec.options().items() if key in defaults}
        origin, rows = opened(spec, hub, **(defaults | given))
        return Opened(origin, convert_rows(spec, rows, item))

    return Source(
        kind=kind,
        data_source=data_source or hub,
        ability=ability,
        uses=uses,
        role=role or ("adjacent" if ability == "code" else "core"),
        licence=licence,
        origin=f"hub {hub}",
        open=open_rows,
        spec=FileSpec,
    )
