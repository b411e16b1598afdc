"""The data: Parquet files with the columns and rows that VeRL needs, and the manifest that describes them.

The manifest shows whether the files are unchanged, whether somebody approved them, and whether they hold evaluation items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from omegaconf import ListConfig, OmegaConf
from pyarrow import types

import data_prep
from data_prep import DataError, read_manifest
from data_prep.manifest import FILE_NAME, config_digest, file_sha256
from posttrain_verl import paths
from posttrain_verl.compose import is_curriculum, our_tree
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.terminal.problem import Problem, one_of, warning
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.schema import read_yaml


def check_data(composed: Composed) -> list[Problem]:
    """Problems of every file of training and validation. Addresses such as s3://... are not looked at."""
    settings = composed.settings
    missing = [name for name in composed.stage.needed_files if not getattr(settings, name)]
    found = [Problem(f"{settings.key(name)}={getattr(settings, name)} names no file",
                     f"leave {settings.key(name)} out, or give a Parquet file") for name in missing]  # fmt: skip
    problems = [problem for file in list_data_files(composed) for problem in _check_file(composed, file)]
    return found + (problems or list(_check_counts(composed)))


def check_mix(composed: Composed) -> list[Problem]:
    """Problems of the keys below `posttrain.mix`, if the recipe or the command line changes the mix. A shipped one is right."""
    mix: Any = OmegaConf.to_container(composed.posttrain.mix)
    if mix == our_tree(composed.choices)["mix"]:
        return []  # reading the declaration of a mix takes a third of a second
    try:
        data_prep.parse(mix)
    except DataError as error:
        return [Problem(f"posttrain.{each.where}: {each.what}", each.remedy) for each in error.problems]
    return []


def list_data_files(composed: Composed) -> list[Path]:
    """The local Parquet files of the launch, training first, absolute."""
    return _list_local_files(composed, "train_files") + _list_local_files(composed, "val_files")


def _list_local_files(composed: Composed, name: str) -> list[Path]:
    value = getattr(composed.settings, name)
    listed = list(value) if isinstance(value, ListConfig) else [value]
    return [Path(str(file)).expanduser().absolute() for file in listed if file and "://" not in str(file)]


def count_rows(composed: Composed, name: str) -> int | None:
    """Rows that VeRL will use of `train_files` or `val_files`; None when a file cannot be counted here."""
    found = _list_local_files(composed, name)
    if not found or not all(_is_parquet(file) for file in found):
        return None
    total = sum(_count_rows_in(file) for file in found)
    limit = getattr(composed.settings, name.replace("files", "max_samples"))
    return min(total, limit) if isinstance(limit, int) and limit > 0 else total


def list_readable_files(composed: Composed, name: str) -> list[Path]:
    """The local files of `train_files` or `val_files` that are Parquet with rows and the columns of the stage."""
    found = [file for file in _list_local_files(composed, name) if _is_parquet(file) and _count_rows_in(file)]
    return [file for file in found if not any(_column_flaws(composed, pq.read_schema(file)))]


def is_offline(composed: Composed) -> bool:
    """Whether launch can build the mix of this launch without a network."""
    mix = composed.posttrain.mix
    return bool(mix.get("offline", mix.name == "embedded"))


def _count_rows_in(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowInvalid, OSError):
        return 0  # check_data reports the file


def _is_parquet(file: Path) -> bool:
    """Whether the file begins like a Parquet file (magic bytes PAR1)."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def _check_file(composed: Composed, file: Path) -> Iterator[Problem]:
    if not file.exists():
        if file.parent != composed.data_dir:
            yield Problem(f"{file} is missing", "give the path of a Parquet file that exists")
        elif not is_offline(composed):
            build = f"build it: python -m posttrain_verl.prep mix={composed.choices['mix']}"
            yield Problem(f"{file} is missing", f"{build}\nor train on the offline mix: mix=embedded")
        return
    try:
        schema = pq.read_schema(file)
        count = pq.read_metadata(file).num_rows
    except (pa.ArrowInvalid, OSError) as error:
        yield Problem(f"{file} is not a readable Parquet file: {error}", "build it again or give another file")
        return
    stage = composed.stage.name.upper()
    remedy = f"python -m posttrain_verl.prep writes files for {stage}; docs/data.md lists the columns"
    for flaw in _column_flaws(composed, schema):
        yield Problem(f"{file} {flaw}", remedy)
    if not count:
        yield Problem(f"{file} has no rows", "build the data again, or another mix")


def _column_flaws(composed: Composed, schema: pa.Schema) -> Iterator[str]:
    """What is wrong with the columns, each as the end of a sentence about the file."""
    for name, kind in composed.settings.columns.items():
        needed, fits = _KINDS[kind]
        if name not in schema.names:
            yield f"has no column {name}; it has {', '.join(schema.names)}"
        elif not fits(schema.field(name).type):
            yield f"has a column {name} of type {schema.field(name).type}; VeRL needs {needed}"


def _is_chat(kind: pa.DataType) -> bool:
    is_list = types.is_list(kind) or types.is_large_list(kind)
    return is_list and _has_fields(kind.value_type, "role", "content")


def _has_fields(kind: pa.DataType, *names: str) -> bool:
    return types.is_struct(kind) and set(names) <= {field.name for field in kind}


_KINDS = {
    "chat": ("a list of {role, content}", _is_chat),
    "text": ("a string", lambda kind: types.is_string(kind) or types.is_large_string(kind)),
    "truth": ("a struct with ground_truth", lambda kind: _has_fields(kind, "ground_truth")),
}


def _check_counts(composed: Composed) -> Iterator[Problem]:
    """The loader drops the last incomplete batch, so a set smaller than a batch gives no step at all."""
    settings, batch = composed.settings, composed.settings.train_batch_size
    count = count_rows(composed, "train_files")
    if count is not None and isinstance(batch, int) and count < batch:
        what = f"{settings.key('train_files')} has {count} rows, fewer than {settings.override('train_batch_size')}"
        remedy = f"lower {settings.key('train_batch_size')} to {count} or less"
        yield Problem(f"{what}: there would be no batch", remedy)


STAGE_COLUMN = "extra_info.stage"  # of a row: the stage of a curriculum that it belongs to


def check_order(composed: Composed) -> list[Problem]:
    """A problem for every training file whose curriculum would be shuffled away."""
    settings = composed.settings
    if not settings.shuffles:
        return []
    remedy = f"{settings.override('shuffles', False)} trains in their order; posttrain.skip=[order] if it is meant"
    return [Problem(f"{file} is a curriculum, and {settings.override('shuffles')} would mix its stages", remedy)
            for file in _list_local_files(composed, "train_files")
            if is_curriculum(composed.posttrain, file) or _is_in_stages(file)]  # fmt: skip


def _is_in_stages(file: Path) -> bool:
    """Whether the rows of a file name several stages, one after the other.

    The statistics of the Parquet tell almost always; the column is read where they name more than one.
    """
    try:
        metadata = pq.read_metadata(file)
        place = [metadata.schema.column(number).path for number in range(metadata.num_columns)].index(STAGE_COLUMN)
        groups = [metadata.row_group(number).column(place).statistics for number in range(metadata.num_row_groups)]
        ends = {end for each in groups if each and each.has_min_max for end in (each.min, each.max)}
        if len(ends) < 2:
            return False
        with pq.ParquetFile(file) as opened:
            named = pc.struct_field(opened.read(columns=[STAGE_COLUMN])["extra_info"].combine_chunks(), "stage")
    except (pa.ArrowException, OSError, ValueError):  # check_data reports the file; no such column
        return False
    runs = pc.run_end_encode(named).values
    return len(runs) == len(runs.unique())


SAMPLED_GROUPS = 8  # row groups that are read of one file


def sample_rows(file: Path, columns: list[str], count: int) -> list[dict[str, Any]]:
    """Up to `count` rows with `columns` of them, evenly spaced over SAMPLED_GROUPS row groups of the file.

    The rows are the same for the same file, so the verdict of a check does not depend on luck.
    """
    parquet = pq.ParquetFile(file)
    groups = _spread_evenly(parquet.num_row_groups, SAMPLED_GROUPS)
    table = parquet.read_row_groups(groups, columns=columns) if groups else pa.table({})
    return table.take(_spread_evenly(table.num_rows, count)).to_pylist()


def _spread_evenly(total: int, count: int) -> list[int]:
    """At most `count` of the numbers below `total`, evenly spaced, the first and the last among them."""
    return sorted({int(place) for place in np.linspace(0, max(total - 1, 0), min(total, count))})


def check_manifest(composed: Composed) -> list[Problem]:
    """Problems of every manifest beside the data. Raises CannotTell when the data is not built yet."""
    files, known = [file for file in list_data_files(composed) if file.is_file()], paths.names("eval")
    found = [Problem(f"posttrain.evals names {name}, and there is no such evaluation", one_of(name, known))
             for name in list_evaluations(composed) if known and name not in known]  # fmt: skip
    if not files and not found:
        raise CannotTell("the data is not built yet")
    for folder in dict.fromkeys(file.parent for file in files):
        found += _check_manifest_folder(composed, folder, [file for file in files if file.parent == folder])
    return found


def _check_manifest_folder(composed: Composed, folder: Path, files: list[Path]) -> Iterator[Problem]:
    build = f"python -m posttrain_verl.prep mix={composed.choices['mix']}"
    is_ours, must_be_inspected = folder == composed.data_dir, composed.posttrain.require_inspected
    level: Any = "problem" if must_be_inspected else "warning"
    try:
        manifest = read_manifest(folder)
        entries, overlap = dict(manifest["files"]), dict(manifest["overlap"])
    except (DataError, KeyError, TypeError):
        if is_ours or must_be_inspected:
            what = f"{folder / FILE_NAME} is missing or cannot be read: nobody knows what this data is"
            yield Problem(what, f"build it: {build}", level)
        return
    for file in files:
        if (entry := entries.get(file.name)) is None:
            yield warning(f"{file} is not in the manifest beside it", f"build it again: {build}")
            continue
        # Compare the size always, and the sha256 where the file is younger than its manifest.
        younger = file.stat().st_mtime > (folder / FILE_NAME).stat().st_mtime
        if file.stat().st_size != entry["bytes"] or (younger and file_sha256(file) != entry["sha256"]):
            yield Problem(f"{file} is not the file that its manifest describes", f"build it again: {build} --force")
    mix: Any = OmegaConf.to_container(composed.posttrain.mix)
    if is_ours and not is_offline(composed) and manifest.get("mix_sha256") != config_digest(mix):
        yield warning(f"{folder} was built from another version of the mix {mix['name']}", f"build it again: {build}")
    if not manifest.get("inspected") and (must_be_inspected or not is_offline(composed)):
        remedy = f"python -m posttrain_verl.inspect mix={composed.choices['mix']} --approve"
        yield Problem(f"nobody has approved the data in {folder}", remedy, level)
    if not is_offline(composed):  # an offline mix is made up by us, in place of the data that the evaluations are about
        for name in list_evaluations(composed):
            yield from _check_decontaminated(name, manifest, overlap, folder)


def list_evaluations(composed: Composed) -> list[str]:
    """The evaluations that the recipe is judged by, as far as they are known."""
    return [str(name) for name in composed.posttrain.evals or []]


def _check_decontaminated(
    name: str, manifest: Mapping[str, Any], overlap: Mapping[str, Any], folder: Path
) -> Iterator[Problem]:
    """The build must have searched for the overlap with an evaluation, and must have dropped what it found."""
    file = paths.conf_dir() / "eval" / f"{name}.yaml"
    wanted = read_yaml(file).get("source") if file.is_file() else None
    if not isinstance(wanted, dict):  # no such evaluation, or the test split of a mix, which its builder keeps apart
        return
    sources = (manifest.get("mix") or {}).get("sources") or {}
    read = {source: sources.get(source) or {} for source in overlap}
    same = [source for source, options in read.items()
            if options.get("from", source) == wanted["from"] and options.get("split") == wanted.get("split")]  # fmt: skip
    if not same:
        what = f"the data in {folder} was not searched for items of the evaluation {name}"
        yield Problem(what, f"add {wanted['from']} to decontaminate.against of the mix, and build it again")
        return
    result = overlap[same[0]]
    left = min((result.get("rows_by_overlap") or {}).values(), default=0) - result.get("dropped", 0)
    if left > 0:
        what = f"{left} training rows in {folder} share long passages with the evaluation {name}"
        yield warning(what, "set decontaminate.drop in the mix, and build it again")
