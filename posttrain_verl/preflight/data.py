"""The data: Parquet files with the columns and rows that VeRL needs, and the manifest that describes them.

The manifest shows whether the files are unchanged, whether somebody approved them, and whether they hold evaluation items.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf
from pyarrow import types

import data_prep
from data_prep import DataError, read_manifest
from data_prep.finished import changed_sources, describe_difference, is_same_mix
from data_prep.manifest import FILE_NAME, file_sha256
from posttrain_verl import own_reward, paths
from posttrain_verl.compose import is_curriculum, our_tree
from posttrain_verl.preflight import rows
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.terminal.problem import Problem, blocking, one_of, warning
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.job import counted
from posttrain_verl.verl.schema import read_yaml


def check_data(composed: Composed) -> list[Problem]:
    """Problems of every file of training and validation, and of all its rows. What is not looked at is a warning."""
    settings = composed.settings
    missing = [name for name in composed.stage.needed_files if not getattr(settings, name)]
    found = [Problem(f"{settings.key(name)}={getattr(settings, name)} names no file",
                     f"leave {settings.key(name)} out, or give a Parquet file") for name in missing]  # fmt: skip
    if away := [file for name in DATA_NAMES for file in composed.settings.files(name) if "://" in file]:
        what = f"{counted(len(away), 'data file')} elsewhere, e.g. {away[0]}: nobody looked at the rows"
        found.append(warning(what, "check a copy on this machine to be sure"))
    found += _check_mixture(composed)
    problems = [problem for file in dict.fromkeys(list_data_files(composed)) for problem in _check_file(composed, file)]
    return found + problems + ([] if blocking(problems) else list(_check_counts(composed)))


def _check_mixture(composed: Composed) -> Iterator[Problem]:
    """A warning where one of training and validation is the user's own file, and the other is of a mix of another task."""
    places = {
        name: [file.parent == composed.data_dir for file in _list_local_files(composed, name)] for name in DATA_NAMES
    }
    own = [name for name, of_mix in places.items() if of_mix and not any(of_mix)]
    others = [name for name, of_mix in places.items() if of_mix and all(of_mix)]
    if own and others and composed.settings.key(own[0]) in composed.user_keys:
        what = f"{composed.settings.key(own[0])} is your own, and {composed.settings.key(others[0])} is of the mix"
        remedy = f"set {composed.settings.key(others[0])}, too, if they should be of one task"
        yield warning(f"{what} {composed.posttrain.mix.name}", remedy)


def check_mix(composed: Composed) -> list[Problem]:
    """Problems of the keys below `posttrain.mix`, if the recipe or the command line changes the mix. A shipped one is right."""
    mix: Any = OmegaConf.to_container(composed.posttrain.mix)
    if paths.is_shipped("mix", composed.files["mix"]) and mix == our_tree(composed)["mix"]:
        return []  # reading the declaration of a mix takes a third of a second
    try:
        data_prep.parse(mix, own_reward.takes_any_source(composed.settings))
    except DataError as error:
        return [Problem(f"posttrain.{each.where}: {each.what}", each.remedy) for each in error.problems]
    return []


DATA_NAMES = ("train_files", "val_files")


def list_data_files(composed: Composed) -> list[Path]:
    """The local data files of the launch, training first, absolute."""
    return [file for name in DATA_NAMES for file in _list_local_files(composed, name)]


def _list_local_files(composed: Composed, name: str) -> list[Path]:
    return [Path(file).expanduser().absolute() for file in composed.settings.files(name) if "://" not in file]


def count_rows(composed: Composed, name: str) -> int | None:
    """Rows that VeRL will use of `train_files` or `val_files`; None when a file cannot be counted here."""
    found = _list_local_files(composed, name)
    if not found or len(found) < len(composed.settings.files(name)) or not all(map(rows.is_table, found)):
        return None
    total = sum(_count_rows_in(file) for file in found)
    limit = getattr(composed.settings, name.replace("files", "max_samples"))
    return min(total, limit) if isinstance(limit, int) and limit > 0 else total


def list_readable_files(composed: Composed, name: str) -> list[Path]:
    """The local files of `train_files` or `val_files` that have rows and the columns of the stage, which VeRL's dataset reads."""
    if composed.settings.dataset_class:
        return []
    found = [file for file in _list_local_files(composed, name) if rows.is_table(file) and _count_rows_in(file)]
    return [file for file in found if not any(_column_flaws(composed, rows.read_schema(file)))]


def is_offline(composed: Composed) -> bool:
    """Whether launch can build the mix of this launch without a network."""
    mix = composed.posttrain.mix
    return bool(mix.get("offline", mix.name == "embedded"))


def mix_command(composed: Composed, verb: str, *options: str) -> str:
    """What to type for a verb on the mix of this launch, with its folder and with the reward that its rows need."""
    words = [f"mix={composed.typed_option('mix')}"]
    if composed.data_dir.parent != Path("data").absolute():
        words.append(f"posttrain.data_dir={composed.posttrain.data_dir}")
    if reward := own_reward.of_settings(composed.settings):
        words.append(f"reward={reward.word}")
    return f"python -m posttrain_verl.{verb} {shlex.join([*words, *options])}"


def list_mix_files(composed: Composed) -> list[Path]:
    """The data files of the launch that are those of its mix."""
    return [file for file in list_data_files(composed) if file.parent == composed.data_dir]


def reads_offline_mix(composed: Composed) -> bool:
    """Whether the launch reads files of a mix that it can build without a network."""
    return is_offline(composed) and bool(list_mix_files(composed))


def _count_rows_in(file: Path) -> int:
    try:
        return rows.count_rows(file)
    except (pa.ArrowInvalid, OSError):
        return 0  # check_data reports the file


def _check_file(composed: Composed, file: Path) -> Iterator[Problem]:
    if not file.exists():
        if file.parent != composed.data_dir:
            remedy = composed.settings.missing_data_remedy
            yield Problem(f"{file} is missing", remedy.format(mix=composed.posttrain.mix.name, name=file.parent.name))
        elif not is_offline(composed):
            build = f"build it: {mix_command(composed, 'prep')}"
            yield Problem(f"{file} is missing", f"{build}\nor train on the offline mix: mix=embedded")
        return
    endings = composed.settings.data_endings
    if composed.settings.dataset_class:
        what = f"{file}: nobody looked at the rows, which the class of {composed.settings.key('dataset_class')} reads"
        yield warning(what, "run a rehearsal: posttrain_verl.check --rehearse")
        return
    if endings and file.suffix not in endings:
        yield Problem(f"the name of {file} does not end in {', '.join(endings)}: VeRL does not open it", "rename it")
        return
    try:
        if not endings and not rows.is_parquet(file):
            raise pa.ArrowInvalid("VeRL reads this stage from Parquet alone")
        schema, count = rows.read_schema(file), rows.count_rows(file)
    except (pa.ArrowInvalid, OSError) as error:
        kind = "JSON" if endings and file.suffix in rows.JSON_NAMES else "Parquet"
        is_table = not endings and file.suffix in (".csv", ".tsv", ".json", ".jsonl")
        again = "build it again or give another file"
        remedy = "a mix reads such files, and makes Parquet of them (docs/data.md)" if is_table else again
        yield Problem(f"{file} is not a readable {kind} file: {error}", remedy)
        return
    flaws = [Problem(f"{file} {flaw}", composed.settings.columns_remedy) for flaw in _column_flaws(composed, schema)]
    if not count:
        flaws.append(Problem(f"{file} has no rows", "build the data again, or another mix"))
    from posttrain_verl.preflight import (
        row_rules,  # its library takes time, and a launch whose data is not built needs none
    )

    try:
        yield from flaws or list(row_rules.check_rows(composed, file))
    except rows.UnreadRows as reason:
        if reason.damaged:
            yield Problem(str(reason), "write it again")
        else:
            yield warning(str(reason), "write it again with plain columns")


def _column_flaws(composed: Composed, schema: pa.Schema) -> Iterator[str]:
    """What is wrong with the columns, each as the end of a sentence about the file."""
    sides = {name: kind for name, (kind, _) in composed.settings.side_columns.items() if name in schema.names}
    columns = composed.settings.columns | sides
    if missing := [name for name in columns if name not in schema.names]:
        yield f"has no column {', '.join(missing)}; it has {', '.join(schema.names)}"
    for name, kind in columns.items():
        needed, fits = _KINDS[kind]
        if name in missing:
            continue
        if schema.names.count(name) > 1:
            yield f"has {schema.names.count(name)} columns named {name}"
        elif not fits(schema.field(name).type):
            yield f"has a column {name} of type {schema.field(name).type}; training needs {needed}"


def _is_chat(kind: pa.DataType) -> bool:
    """Whether the column is a list of turns whose role is a text, and whose content is a text or a list of parts."""
    if not rows.is_list(kind) or not _has_fields(kind.value_type, "role", "content"):
        return False
    role, content = (kind.value_type.field(name).type for name in ("role", "content"))
    return _is_text(role) and (_is_text(content) or rows.is_list(content))


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column is a text in any of Arrow's forms; one of nulls alone has no type."""
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(rows.is_text(kind) or types.is_string_view(kind) or types.is_null(kind))


def _has_fields(kind: pa.DataType, *names: str) -> bool:
    return types.is_struct(kind) and set(names) <= {field.name for field in kind}


_KINDS = {
    "chat": ('a list of turns, such as [{"role": "user", "content": "2 + 3 = ?"}]', _is_chat),
    "answer": ("a list of {role, content} or a string", lambda kind: _is_chat(kind) or _is_text(kind)),
    "text": ("a string", _is_text),
    "truth": ("a struct with ground_truth", lambda kind: _has_fields(kind, "ground_truth")),
    "struct": ("a struct", lambda kind: types.is_struct(kind) or types.is_null(kind)),
    "list": ("a list", lambda kind: rows.is_list(kind) or types.is_null(kind)),
    "flag": ("true or false", lambda kind: types.is_boolean(kind) or types.is_null(kind)),
}


FEWEST_HELD_OUT = 30  # rows: a share of fewer may have a standard error of more than 9 points


def _check_counts(composed: Composed) -> Iterator[Problem]:
    """The loader drops the last incomplete batch, so a set smaller than a batch gives no step at all."""
    settings, batch = composed.settings, composed.settings.train_batch_size
    count = count_rows(composed, "train_files")
    if count is not None and isinstance(batch, int) and count < batch:
        what = f"{settings.key('train_files')} has {count} rows, fewer than {settings.override('train_batch_size')}"
        remedy = f"lower {settings.key('train_batch_size')} to {count} or less"
        yield Problem(f"{what}: there would be no batch", remedy)
    same = set(settings.files("train_files")) & set(settings.files("val_files"))
    if same:
        yield warning(f"{', '.join(sorted(same))} is validated on, and trained on, too: nothing is held out",
                      f"give {settings.key('val_files')} other rows")  # fmt: skip
    held_out, decides = count_rows(composed, "val_files"), composed.stage.decides_checkpoint
    if decides and held_out is not None and 0 < held_out < FEWEST_HELD_OUT:
        what = f"{held_out} held-out {settings.row_noun}s decide which checkpoint is the result: {decides.key} moves in steps of"
        remedy = f"hold out {FEWEST_HELD_OUT} or more (synthesize: a larger val=), or judge the checkpoints by evaluate"
        yield warning(f"{what} {1 / held_out:.2g}", remedy)


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
        import pyarrow.compute as pc  # most checks do not need it

        with pq.ParquetFile(file) as opened:
            named = pc.struct_field(opened.read(columns=[STAGE_COLUMN])["extra_info"].combine_chunks(), "stage")
    except (pa.ArrowException, OSError, ValueError):  # check_data reports the file; no such column
        return False
    runs = pc.run_end_encode(named).values
    return len(runs) == len(runs.unique())


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
    build = mix_command(composed, "prep")
    is_ours, must_be_inspected = folder == composed.data_dir, composed.posttrain.require_inspected
    level: Any = "problem" if must_be_inspected else "warning"
    try:
        manifest = read_manifest(folder)
        entries, overlap = dict(manifest["files"]), dict(manifest["overlap"])
    except (DataError, KeyError, TypeError):
        if is_ours or must_be_inspected:
            what = f"{folder / FILE_NAME} is missing or cannot be read: nobody knows what this data is"
            own = "read your files with a mix, and approve that (docs/data.md), or posttrain.require_inspected=false"
            yield Problem(what, f"build it: {build}" if is_ours else own, level)
        return
    is_sampled = "teacher" in manifest  # answers of a model, by `synthesize`
    again = f"build it again: {build} --force" if is_ours else "build that data again"
    if is_sampled:
        again = "delete it, and run the same synthesize again: its answers are kept"
    for file in files:
        if (entry := entries.get(file.name)) is None:
            yield warning(f"{file} is not in the manifest beside it", again)
            continue
        # Compare the size always, and the sha256 where the file is younger than its manifest.
        younger = file.stat().st_mtime > (folder / FILE_NAME).stat().st_mtime
        if file.stat().st_size != entry["bytes"] or (younger and file_sha256(file) != entry["sha256"]):
            yield Problem(f"{file} is not the file that its manifest describes", again)
    mix: Any = OmegaConf.to_container(composed.posttrain.mix)
    if is_ours and not is_same_mix(manifest, mix):
        what = f"{folder} was built from another version of the mix {mix['name']}: {describe_difference(folder, mix)}"
        again = "launch builds it again, in its place" if is_offline(composed) else f"build it again: {build}"
        yield warning(
            what, f"{again}; or keep it with keys of posttrain.mix, or name another folder: posttrain.data_dir=FOLDER"
        )
    elif is_ours and (changed := changed_sources(folder, mix)):
        yield warning(f"{', '.join(changed)} since {folder} was built", f"build it again: {build}")
    if not manifest.get("inspected") and (must_be_inspected or is_sampled or not is_offline(composed)):
        look = f"python -m posttrain_verl.inspect mix={shlex.quote(str(folder))} --approve"
        remedy = mix_command(composed, "inspect", "--approve") if is_ours else look
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
    file = paths.find_option("eval", name)
    wanted = read_yaml(file).get("source") if file else None
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
