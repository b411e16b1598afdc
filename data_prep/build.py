"""From a mix to a finished folder: read, clean, choose, write, and last of all the manifest."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import duplicates, manifest, splits, write
from data_prep.errors import DataError, Problem
from data_prep.filters import gold
from data_prep.mix import SPLITS, Mix
from data_prep.parse import parse
from data_prep.pool import Pool
from data_prep.reading import Reading
from data_prep.sources import KINDS
from data_prep.write import DROPPED

_BUILDING = ".building-"


def build(
    mix_config: Mapping[str, Any], out_dir: Path, *, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Build a mix into `out_dir` and return its manifest. `progress` gets one line a step.

    A build that fails leaves an earlier finished one as it was. Raises DataError with every problem found."""
    mix = parse(mix_config)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        _sweep(out_dir)
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise DataError(Problem(str(out_dir), what, "give another posttrain.data_dir, or make room for it")) from None
    with _scratch(out_dir) as scratch:
        pool = Pool(scratch / "pool.arrow")
        origins, sets = Reading(mix, pool, progress).run()
        _across_rows(mix, pool, progress)
        chosen = splits.choose(mix, pool)
        for name, selection in chosen.items():
            write.write_split(scratch / f"{name}.parquet", mix, mix.splits[name], selection, pool)
            progress(f"{name}: {len(selection.rows)} rows")
        write.write_dropped(scratch / DROPPED, mix, pool)
        pool.path.unlink()
        content: dict[str, Any] = {
            "schema_version": manifest.SCHEMA_VERSION,
            "mix": dict(mix_config),
            "mix_sha256": manifest.config_digest(mix_config),
            "seed": mix.seed,
            "sources": _source_entries(mix, origins, pool),
            "overlap": {each.name: each.report() for each in sets},
            "files": {f"{name}.parquet": _file_entry(mix, pool, each) for name, each in chosen.items()} | {DROPPED: {}},
            "tools": {name: version(name) for name in ("pyarrow", "numpy")},
            "inspected": [],
        }
        for name, entry in content["files"].items():
            entry |= {"bytes": (scratch / name).stat().st_size, "sha256": manifest.file_sha256(scratch / name)}
        _publish(scratch, out_dir, content)
    return content


def _across_rows(mix: Mix, pool: Pool, progress: Callable[[str], None]) -> None:
    """Drop rows for what other rows say. Rows of evaluation sets are never dropped, but count as earlier rows."""
    switches, default = mix.filters, mix.filters.get("all", True)
    held_out = [list(mix.sources).index(name) for name in mix.held_out()]
    whole = np.isin(pool.source, held_out) & pool.good
    if switches.get("conflicting_gold", default):
        specs = list(mix.sources.values())
        duplicates.mark_conflicts(
            pool,
            lambda source, one, other: (
                specs[source].ability == "math" and gold.same(one, other, specs[source].data_source)
            ),
        )
    if switches.get("duplicate", True):
        duplicates.mark_duplicates(pool)
    if switches.get("near_duplicate"):
        duplicates.mark_near_duplicates(pool, float(switches["near_duplicate"]))
    pool.restore(whole)
    for number, name in enumerate(mix.sources):
        if drops := pool.drops(number):
            progress(f"{name}: dropped " + ", ".join(f"{count} {reason}" for reason, count in drops.items()))


def _source_entries(mix: Mix, origins: Mapping[str, Any], pool: Pool) -> dict[str, Any]:
    entries = {}
    for number, (name, spec) in enumerate(mix.sources.items()):
        kind, drops = KINDS[spec.kind], pool.drops(number)
        entries[name] = {
            "kind": kind.kind, "role": kind.role, "data_source": spec.data_source,
            "licence": kind.licence, "origin": kind.origin,
            **origins[name], "rows_kept": origins[name]["rows_in"] - sum(drops.values()), "drops": drops,
        }  # fmt: skip
    return entries


def _sweep(out_dir: Path) -> None:
    """Remove what builds of this machine left that were killed; one that still runs keeps its own."""
    for left in out_dir.glob(f"{_BUILDING}{socket.gethostname()}-*"):
        pid = left.name.split("-")[-2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _scratch(out_dir: Path) -> Iterator[Path]:
    """A folder beside the result, on the same file system, removed whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix=f"{_BUILDING}{socket.gethostname()}-{os.getpid()}-", dir=out_dir))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _publish(scratch: Path, out_dir: Path, content: Mapping[str, Any]) -> None:
    """Move the files in. The old manifest goes first and the new one comes last, so no mixture looks finished."""
    (out_dir / manifest.FILE_NAME).unlink(missing_ok=True)
    for old in (*(f"{split}.parquet" for split in SPLITS), DROPPED):
        (out_dir / old).unlink(missing_ok=True)
    for file in scratch.iterdir():
        os.replace(file, out_dir / file.name)
    manifest.write(out_dir, content)


def _file_entry(mix: Mix, pool: Pool, selection: splits.Selection) -> dict[str, Any]:
    names = list(mix.sources)
    counts = Counter(names[number] for number in pool.source[selection.rows].tolist())
    tokens = pool.tokens[selection.rows]
    statistics = (
        {"total": int(tokens.sum()), "mean": round(float(tokens.mean()), 2), "max": int(tokens.max())}
        if len(tokens)
        else {}
    )
    return {"rows": len(tokens), "rows_by_source": dict(sorted(counts.items())), "tokens": statistics}
