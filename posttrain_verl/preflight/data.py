"""The Parquet files of a launch: there, readable, with the columns that VeRL reads, and with enough rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import ListConfig

from posttrain_verl.compose import Composed
from posttrain_verl.problem import Problem


def check(composed: Composed) -> list[Problem]:
    """Problems of every file in data.train_files and data.val_files; addresses such as s3://... are not looked at."""
    problems = [problem for file in files(composed) for problem in _check_file(composed, file)]
    return _none_given(composed) + (problems or _check_rows(composed))


def files(composed: Composed) -> list[Path]:
    """The local Parquet files of the launch, training first, absolute."""
    return local(composed, "train_files") + local(composed, "val_files")


def local(composed: Composed, key: str) -> list[Path]:
    """The local files of `data.train_files` or `data.val_files`."""
    value = composed.verl.data.get(key)
    listed = list(value) if isinstance(value, ListConfig) else [value]
    return [Path(str(file)).expanduser().absolute() for file in listed if file and "://" not in str(file)]


def rows(composed: Composed, key: str) -> int | None:
    """Rows that VeRL will use of `data.train_files` or `data.val_files`; None when a file cannot be counted here."""
    found = local(composed, key)
    if not found or not all(_is_parquet(file) for file in found):
        return None
    total = sum(_rows_in(file) for file in found)
    limit = composed.verl.data.get(key.replace("files", "max_samples"), -1)
    return min(total, limit) if isinstance(limit, int) and limit > 0 else total


def readable(composed: Composed, key: str) -> list[Path]:
    """The local files of `data.train_files` or `data.val_files` that are Parquet with rows and the columns of the stage."""
    found = [file for file in local(composed, key) if _is_parquet(file) and _rows_in(file)]
    return [file for file in found if not _flaws(composed, pq.read_schema(file))]


def is_offline(composed: Composed) -> bool:
    """Whether launch can build the mix of this launch without a network."""
    mix = composed.posttrain.mix
    return bool(mix.get("offline", mix.name == "embedded"))


def _rows_in(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowInvalid, OSError):
        return 0  # `check` says so


def _is_parquet(file: Path) -> bool:
    """Whether the file begins like a Parquet file (magic bytes PAR1)."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def _check_file(composed: Composed, file: Path) -> list[Problem]:
    if not file.exists():
        return _missing(composed, file)
    try:
        schema = pq.read_schema(file)
        count = pq.read_metadata(file).num_rows
    except (pa.ArrowInvalid, OSError) as error:
        return [Problem(f"{file} is no readable Parquet file: {error}", "build it again or give another file")]
    problems = [Problem(f"{file} {flaw}", _columns_remedy(composed)) for flaw in _flaws(composed, schema)]
    return problems if count else [*problems, Problem(f"{file} has no rows", "build the data again, or another mix")]


def _none_given(composed: Composed) -> list[Problem]:
    """SFT can do without validation; VeRL's RL trainer opens both sets."""
    keys = ("train_files",) if composed.stage == "sft" else ("train_files", "val_files")
    return [
        Problem(
            f"data.{key}={composed.verl.data.get(key)} names no file", f"leave data.{key} out, or give a Parquet file"
        )
        for key in keys
        if not composed.verl.data.get(key)
    ]


def _missing(composed: Composed, file: Path) -> list[Problem]:
    if file.parent != composed.data_dir:
        return [Problem(f"{file} is missing", "give the path of a Parquet file that exists")]
    if is_offline(composed):
        return []
    build = f"build it: python -m posttrain_verl.prep mix={composed.choices['mix']}"
    return [Problem(f"{file} is missing", f"{build}\nor train on the offline mix: mix=embedded")]


def _flaws(composed: Composed, schema: pa.Schema) -> list[str]:
    """What is wrong with the columns, each as the end of a sentence about the file."""
    config = composed.verl.data
    wanted = {config.messages_key: "chat"} if composed.stage == "sft" else {
        config.prompt_key: "chat", config.reward_fn_key: "text", "reward_model": "truth"}  # fmt: skip
    flaws = []
    for name, kind in wanted.items():
        if name not in schema.names:
            flaws.append(f"has no column {name}; it has {', '.join(schema.names)}")
        elif not _FITS[kind](schema.field(name).type):
            flaws.append(f"has a column {name} of type {schema.field(name).type}; VeRL needs {_NEEDS[kind]}")
    return flaws


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _has_fields(kind: pa.DataType, *names: str) -> bool:
    return pa.types.is_struct(kind) and set(names) <= {field.name for field in kind}


_FITS = {
    "chat": lambda kind: _is_list(kind) and _has_fields(kind.value_type, "role", "content"),
    "text": _is_text,
    "truth": lambda kind: _has_fields(kind, "ground_truth"),
}
_NEEDS = {
    "chat": "a list of {role, content}",
    "text": "a string",
    "truth": "a struct with ground_truth",
}


def _columns_remedy(composed: Composed) -> str:
    return f"python -m posttrain_verl.prep writes files for {composed.stage.upper()}; docs/data.md lists the columns"


def _check_rows(composed: Composed) -> list[Problem]:
    """Both loaders drop the last incomplete batch, so a set smaller than a batch gives no step at all."""
    batch = composed.verl.data.train_batch_size
    keys = ("train_files", "val_files") if composed.stage == "sft" else ("train_files",)
    counts = {key: rows(composed, key) for key in keys}
    return [
        Problem(
            f"data.{key} has {count} rows, fewer than data.train_batch_size={batch}: there would be no batch",
            f"lower data.train_batch_size to {count} or less" + (", or data.val_files=null" if "val" in key else ""),
        )
        for key, count in counts.items()
        if count is not None and isinstance(batch, int) and count < batch
    ]
