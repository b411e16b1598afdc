"""From a mix to a finished folder: read, clean, choose, write, and last of all the manifest."""

import logging
import os
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import manifest, parquet, repeats, splits
from data_prep.errors import DataError, Problem
from data_prep.filters import gold
from data_prep.mix import Mix, parse
from data_prep.parquet import DROPPED
from data_prep.pool import Pool
from data_prep.reading import Reading
from data_prep.schema import split_names
from data_prep.sources import KINDS
from reward_fns.own import SIGNATURE, OwnReward, RewardError

log = logging.getLogger(__name__)

_BUILDING = ".building-"


def build(
    mix_config: Mapping[str, Any], out_dir: Path, reward: OwnReward | None = None, any_source: bool = False
) -> dict[str, Any]:
    """Build a mix into `out_dir` and return its manifest. Each step logs one line.

    Golds are graded by our graders, or by `reward`, under which rows may be of any source. With `any_source` nobody grades those
    of unknown sources. A build that fails leaves an earlier finished one as it was. Raises DataError with every problem found."""
    mix = parse(mix_config, any_source or reward is not None)
    if reward:
        _require_callable(reward)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out_dir)
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise DataError(Problem(str(out_dir), what, "give another posttrain.data_dir, or make room for it")) from None
    prefix = f"{_BUILDING}{socket.gethostname()}-{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=out_dir) as folder:  # on the file system of the result
        scratch = Path(folder)
        pool = Pool(scratch / "pool.arrow")
        origins, sets = Reading(mix, pool, reward).run()
        _across_rows(mix, pool)
        chosen = splits.choose_rows(mix, pool)
        for name, selection in chosen.items():
            parquet.write_split(scratch / f"{name}.parquet", mix, mix.splits[name], selection, pool)
            log.info(f"{name}: {len(selection.rows)} rows")
        parquet.write_dropped(scratch / DROPPED, mix, pool)
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
            **({"reward": manifest.describe_reward(reward)} if reward else {}),
        }
        for name, entry in content["files"].items():
            entry |= {"bytes": (scratch / name).stat().st_size, "sha256": manifest.file_sha256(scratch / name)}
        # The old manifest goes first and the new one comes last, so that no mixture looks finished.
        (out_dir / manifest.FILE_NAME).unlink(missing_ok=True)
        for old in (*(f"{split}.parquet" for split in split_names()), DROPPED):
            (out_dir / old).unlink(missing_ok=True)
        for file in scratch.iterdir():
            os.replace(file, out_dir / file.name)
        manifest.write_manifest(out_dir, content)
    return content


def _require_callable(reward: OwnReward) -> None:
    try:
        reward.check_signature()
    except RewardError as error:
        raise DataError(Problem(f"reward={reward.word}", str(error), f"VeRL calls it with {SIGNATURE}")) from None


def _across_rows(mix: Mix, pool: Pool) -> None:
    """Drop rows for what other rows say. Rows of evaluation sets are never dropped, but count as earlier rows."""
    switches, default = mix.filters.named(), mix.filters.all
    held_out = [list(mix.sources).index(name) for name in mix.held_out()]
    whole = np.isin(pool.source, held_out) & pool.good
    if switches.get("conflicting_gold", default):
        specs = list(mix.sources.values())

        def is_same(source: int, one: str, other: str) -> bool:
            return specs[source].ability == "math" and gold.is_same_gold(one, other, specs[source].data_source)

        repeats.mark_conflicts(pool, is_same)
    if switches.get("duplicate", True):
        repeats.mark_duplicates(pool)
    if mix.filters.near_duplicate:
        repeats.mark_near_duplicates(pool, mix.filters.near_duplicate)
    pool.restore(whole)
    for number, name in enumerate(mix.sources):
        if drops := pool.count_drops(number):
            log.info(f"{name}: dropped " + ", ".join(f"{count} {reason}" for reason, count in drops.items()))


def _source_entries(mix: Mix, origins: Mapping[str, Any], pool: Pool) -> dict[str, Any]:
    entries = {}
    for number, (name, spec) in enumerate(mix.sources.items()):
        kind, drops = KINDS[spec.kind], pool.count_drops(number)
        entries[name] = {
            "kind": kind.kind, "role": kind.role, "data_source": spec.data_source,
            "licence": kind.licence, "origin": kind.origin,
            **origins[name], "rows_kept": origins[name]["rows_in"] - sum(drops.values()), "drops": drops,
        }  # fmt: skip
    return entries


def _remove_leftovers(out_dir: Path) -> None:
    """Remove what builds of this machine left that were killed; one that still runs keeps its own."""
    for left in out_dir.glob(f"{_BUILDING}{socket.gethostname()}-*"):
        pid = left.name.split("-")[-2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)


def _file_entry(mix: Mix, pool: Pool, selection: splits.Selection) -> dict[str, Any]:
    names = list(mix.sources)
    counts = Counter(names[number] for number in pool.source[selection.rows].tolist())
    tokens = pool.tokens[selection.rows]
    statistics = {}
    if len(tokens):
        statistics = {"total": int(tokens.sum()), "mean": round(float(tokens.mean()), 2), "max": int(tokens.max())}
    return {"rows": len(tokens), "rows_by_source": dict(sorted(counts.items())), "tokens": statistics}
