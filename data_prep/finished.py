"""Whether a folder holds a finished build of a mix, of the source files as they are now.

Mixes are the same if they mean the same: a key that is given with its default changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from glob import glob
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.manifest import FILE_NAME, SCHEMA_VERSION, config_digest, file_sha256, read_manifest


def is_complete(out_dir: Path, mix_config: Mapping[str, Any]) -> bool:
    """Whether `out_dir` holds a finished build of exactly this mix. Of its own files sizes are compared, not bytes; `verify`
    reads all. Source files on the disk must be as they were; see `changed_sources`."""
    try:
        manifest = read_manifest(out_dir)
    except DataError:
        return False
    files = {out_dir / name: entry.get("bytes") for name, entry in manifest["files"].items()}
    return (
        manifest.get("schema_version") == SCHEMA_VERSION
        and all(path.is_file() and path.stat().st_size == size for path, size in files.items())
        and is_same_mix(manifest, mix_config)
        and not changed_sources(out_dir, mix_config)
    )


def is_same_mix(manifest: Mapping[str, Any], mix_config: Mapping[str, Any]) -> bool:
    """Whether a build is one of this mix. Only mixes that are not given alike are parsed, which takes a third of a second."""
    if manifest.get("mix_sha256") == config_digest(mix_config):
        return True
    return isinstance(manifest.get("mix"), Mapping) and not _other_keys(manifest["mix"], mix_config)


def describe_difference(out_dir: Path, mix_config: Mapping[str, Any]) -> str:
    """What the mix of the finished build in `out_dir` has in place of this one's, e.g. "seed=5, splits.test.rows=64"; at most
    three keys. Empty where there is no build, or one of this mix."""
    try:
        there = read_manifest(out_dir)["mix"]
        other = _other_keys(there, mix_config)
    except (DataError, KeyError, AttributeError):
        return ""
    more = ["..."] if len(other) > 3 else []
    given = _flatten(there)
    return ", ".join([*(f"{key}={given[key]}" if key in given else f"no {key}" for key in other[:3]), *more])


def _other_keys(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The dotted keys that differ. Empty where the mixes mean the same once defaults are filled in."""
    given = [_flatten(each) for each in (there, here)]
    other = [key for key in {**given[0], **given[1]} if given[0].get(key) != given[1].get(key)]
    other += [key for key in given[0].keys() ^ given[1].keys() if key not in other]  # one has it as null
    return other if other and not _mean_the_same(there, here) else []


def _mean_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    from data_prep.mix import parse  # imports Arrow and pydantic

    try:
        mixes = [parse(each, any_source=True) for each in (one, other)]
    except DataError:  # of another version
        return False
    meant = [
        (mix.model_dump(mode="json"), mix.filters.named(), mix.decontaminate.drop_from(),
         {name: source.options() for name, source in mix.sources.items()})
        for mix in mixes
    ]  # fmt: skip
    return meant[0] == meant[1]


def changed_sources(out_dir: Path, mix_config: Mapping[str, Any]) -> list[str]:
    """The source files that are not what a finished build in `out_dir` read, by the names that a message shows.

    Files that are not there do not count: a build may be copied to a machine without them. A file is read only if it has the size
    it had and is younger than the manifest. A file that a pattern now finds, too, counts."""
    try:
        manifest = read_manifest(out_dir)
    except DataError:
        return []
    built = (out_dir / FILE_NAME).stat().st_mtime
    sources = mix_config.get("sources")
    return [
        changed
        for name, entry in (sources if isinstance(sources, Mapping) else {}).items()
        if isinstance(entry, Mapping) and isinstance(entry.get("path"), str)
        for changed in _changed_files(entry["path"], (manifest.get("sources") or {}).get(name) or {}, built)
    ]


def _changed_files(pattern: str, entry: Mapping[str, Any], built: float) -> Iterator[str]:
    """The files of one source that are not those of its `entry` in a manifest that was written at `built` (seconds)."""
    digests, sizes = entry.get("files"), entry.get("bytes") or {}
    if not isinstance(digests, Mapping):
        return
    given = Path(pattern).expanduser()
    for path in [given] if given.is_file() else sorted(map(Path, glob(str(given)))):
        if not path.is_file():
            continue
        there = path.stat()
        if path.name not in digests:
            yield f"{path.name} is new"
        elif (path.name in sizes and sizes[path.name] != there.st_size) or (
            there.st_mtime > built and file_sha256(path) != digests[path.name]
        ):
            yield f"{path.name} changed"


def _flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values below a mapping by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            found |= _flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
