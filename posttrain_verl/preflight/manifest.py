"""What manifest.json says of the data: it is unchanged, somebody looked at it, and it holds no evaluation item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from data_prep import DataError, read_manifest
from data_prep.manifest import FILE_NAME, config_digest, file_sha256
from posttrain_verl import paths
from posttrain_verl.compose import Composed
from posttrain_verl.overrides import names
from posttrain_verl.preflight import data
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.problem import Problem, one_of, warning


def check(composed: Composed) -> list[Problem]:
    """Problems of every manifest beside the data. Raises CannotTell when the data is not built yet."""
    files = [file for file in data.files(composed) if file.is_file()]
    unknown = list(_unknown_evals(composed))
    if not files:
        if unknown:
            return unknown
        raise CannotTell("the data is not built yet")
    found = list(unknown)
    for folder in dict.fromkeys(file.parent for file in files):
        found += _folder(composed, folder, [file for file in files if file.parent == folder])
    return found


def _folder(composed: Composed, folder: Path, files: list[Path]) -> list[Problem]:
    build = f"python -m posttrain_verl.prep mix={composed.choices['mix']}"
    try:
        manifest = read_manifest(folder)
        entries, overlap = dict(manifest["files"]), dict(manifest["overlap"])
    except (DataError, KeyError, TypeError):
        what = f"{folder / FILE_NAME} is missing or cannot be read: nobody knows what this data is"
        level: Any = "problem" if composed.posttrain.require_inspected else "warning"
        return [Problem(what, f"build it: {build}", level)] if folder == composed.data_dir or level == "problem" else []
    found = [problem for file in files for problem in _unchanged(file, entries.get(file.name), build)]
    found += _same_mix(composed, folder, manifest, build)
    found += _inspected(composed, folder, manifest)
    if data.is_offline(composed):  # made up by us, in place of the data that the evaluations are about
        return found
    return found + [problem for name in _evals(composed) for problem in _clean(name, manifest, overlap, folder)]


def _unchanged(file: Path, entry: Mapping[str, Any] | None, build: str) -> list[Problem]:
    """The size always; the sha256 where the file is younger than its manifest."""
    if entry is None:
        return [warning(f"{file} is not in the manifest beside it", f"build it again: {build}")]
    younger = file.stat().st_mtime > (file.parent / FILE_NAME).stat().st_mtime
    if file.stat().st_size != entry["bytes"] or (younger and file_sha256(file) != entry["sha256"]):
        return [Problem(f"{file} is not the file that its manifest describes", f"build it again: {build} --force")]
    return []


def _same_mix(composed: Composed, folder: Path, manifest: Mapping[str, Any], build: str) -> list[Problem]:
    mix: Any = OmegaConf.to_container(composed.posttrain.mix)
    if folder != composed.data_dir or data.is_offline(composed) or manifest.get("mix_sha256") == config_digest(mix):
        return []
    return [warning(f"{folder} was built from another version of the mix {mix['name']}", f"build it again: {build}")]


def _inspected(composed: Composed, folder: Path, manifest: Mapping[str, Any]) -> list[Problem]:
    if manifest.get("inspected") or (data.is_offline(composed) and not composed.posttrain.require_inspected):
        return []
    level: Any = "problem" if composed.posttrain.require_inspected else "warning"
    remedy = f"python -m posttrain_verl.inspect mix={composed.choices['mix']} --approve"
    return [Problem(f"nobody has approved the data in {folder}", remedy, level)]


def _evals(composed: Composed) -> list[str]:
    """The evaluations that the recipe is judged by, as far as they are known."""
    wanted = composed.posttrain.evals or []
    return [str(name) for name in ([wanted] if isinstance(wanted, str) else wanted)]


def _unknown_evals(composed: Composed) -> Iterator[Problem]:
    known = names("eval")
    for name in _evals(composed):
        if known and name not in known:
            yield Problem(f"posttrain.evals names {name}, and there is no such evaluation", one_of(name, known))


def _clean(name: str, manifest: Mapping[str, Any], overlap: Mapping[str, Any], folder: Path) -> list[Problem]:
    """The overlap with an evaluation was looked for when the data was built, and what was found is gone."""
    file = paths.conf_dir() / "eval" / f"{name}.yaml"
    if not file.is_file():
        return []
    evaluation = yaml.safe_load(file.read_text(encoding="utf-8"))
    wanted = evaluation.get("source")
    if not isinstance(wanted, dict):  # the test split of a mix: its builder keeps the splits apart
        return []
    sources = (manifest.get("mix") or {}).get("sources") or {}
    same = [source for source in overlap if _is_same(source, sources.get(source) or {}, wanted)]
    if not same:
        what = f"the data in {folder} was not searched for items of the evaluation {name}"
        return [Problem(what, f"add {wanted['from']} to decontaminate.against of the mix, and build it again")]
    rows: dict[str, int] = overlap[same[0]].get("rows_by_overlap") or {}
    left = min(rows.values(), default=0) - overlap[same[0]].get("dropped", 0)
    if left > 0:
        return [warning(f"{left} training rows in {folder} share long passages with the evaluation {name}",
                        "set decontaminate.drop in the mix, and build it again")]  # fmt: skip
    return []


def _is_same(source: str, options: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a source of the mix is what an evaluation reads: the same reader and split."""
    return options.get("from", source) == wanted["from"] and options.get("split") == wanted.get("split")
