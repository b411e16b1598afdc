"""From a mix to a finished folder: read, clean, choose, write, and last of all the manifest."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import manifest, splits, write
from data_prep.fingerprint import row_keys
from data_prep.mix import SPLITS, Mix, parse
from data_prep.pool import Pool
from data_prep.sources import KINDS


def build(
    mix_config: Mapping[str, Any], out_dir: Path, *, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Build a mix into `out_dir` and return its manifest. `progress` gets one line a step.

    A build that fails leaves an earlier finished one as it was. Raises DataError with every problem found."""
    mix = parse(mix_config)
    out_dir.mkdir(parents=True, exist_ok=True)
    with _scratch(out_dir) as scratch:
        pool = Pool(scratch / "pool.arrow")
        read = _read_all(mix, pool, progress)
        chosen = splits.choose(mix, pool)
        for name, selection in chosen.items():
            write.write_split(scratch / f"{name}.parquet", mix, mix.splits[name], selection, pool)
            progress(f"{name}: {len(selection.rows)} rows")
        pool.path.unlink()
        content = {
            "schema_version": manifest.SCHEMA_VERSION,
            "mix": dict(mix_config),
            "mix_sha256": manifest.config_digest(mix_config),
            "seed": mix.seed,
            "sources": read,
            "files": {
                f"{name}.parquet": _file_entry(scratch / f"{name}.parquet", mix, pool, s) for name, s in chosen.items()
            },
            "tools": {name: version(name) for name in ("pyarrow", "numpy")},
        }
        _publish(scratch, out_dir, content)
    return content


@contextmanager
def _scratch(out_dir: Path) -> Iterator[Path]:
    """A folder beside the result, on the same file system, removed whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix=".building-", dir=out_dir))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _publish(scratch: Path, out_dir: Path, content: Mapping[str, Any]) -> None:
    """Move the files in. The old manifest goes first and the new one comes last, so no mixture looks finished."""
    (out_dir / manifest.FILE_NAME).unlink(missing_ok=True)
    for split in SPLITS:
        (out_dir / f"{split}.parquet").unlink(missing_ok=True)
    for file in scratch.iterdir():
        os.replace(file, out_dir / file.name)
    manifest.write(out_dir, content)


def _read_all(mix: Mix, pool: Pool, progress: Callable[[str], None]) -> dict[str, Any]:
    """Read every source into the pool; returns the manifest's entry for each."""
    seen = np.empty(0, dtype=np.uint64)
    entries = {}
    for number, spec in enumerate(mix.sources.values()):
        kind = KINDS[spec.kind]
        opened = kind.open(spec)
        rows_in, drops = 0, Counter[str]()
        for batch in opened.batches:
            rows_in += batch.num_rows
            keys = row_keys(batch["question"])
            fresh = _first_seen(keys, seen)
            seen = np.concatenate([seen, keys[fresh]])
            drops["duplicate"] += int(batch.num_rows - fresh.sum())
            kept = batch.filter(pa.array(fresh))
            pool.append(number, kept, keys[fresh], _byte_lengths(kept))
        entries[spec.name] = dict(opened.provenance) | {
            "kind": kind.kind,
            "licence": kind.licence,
            "origin": kind.origin,
            "rows_in": rows_in,
            "rows_kept": rows_in - drops.total(),
            "drops": dict(drops),
        }
        progress(f"{spec.name}: {rows_in} rows read, {rows_in - drops.total()} kept {dict(drops)}")
    pool.close()
    return entries


def _first_seen(keys: np.ndarray, seen: np.ndarray) -> np.ndarray:
    first = np.zeros(len(keys), dtype=bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first & ~np.isin(keys, seen)


def _byte_lengths(items: pa.RecordBatch) -> np.ndarray:
    lengths = (pc.fill_null(pc.binary_length(items[name]), 0) for name in ("question", "solution"))
    return pc.add(*lengths).to_numpy()


def _file_entry(path: Path, mix: Mix, pool: Pool, selection: splits.Selection) -> dict[str, Any]:
    names = list(mix.sources)
    counts = Counter(names[number] for number in pool.source[selection.rows])
    tokens = pool.tokens[selection.rows]
    return {
        "rows": len(selection.rows),
        "bytes": path.stat().st_size,
        "sha256": manifest.file_sha256(path),
        "rows_by_source": dict(sorted(counts.items())),
        "tokens": {"total": int(tokens.sum()), "mean": float(tokens.mean().round(2)), "max": int(tokens.max())}
        if len(tokens)
        else {},
    }
