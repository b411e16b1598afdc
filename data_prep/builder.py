"""From a mix to a finished folder: read, clean, choose, write, and last of all the manifest."""

import logging
import os
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import manifest, parquet, rates, repeats, splits
from data_prep.errors import DataError, Problem
from data_prep.filters import gold
from data_prep.losses import heavy_losses
from data_prep.mix import Mix, parse
from data_prep.parquet import DROPPED
from data_prep.pool import Pool
from data_prep.reading import Reading
from data_prep.schema import split_names
from data_prep.sources import KINDS
from reward_fns.own import SIGNATURE, OwnReward, RewardError

log = logging.getLogger(__name__)

FAILED = "failed_build"  # the folder, below that of the mix, of what a failed build dropped
_BUILDING = ".building-"


def build(
    mix_config: Mapping[str, Any], out_dir: Path, reward: OwnReward | None = None, any_source: bool = False
) -> dict[str, Any]:
    """Build a mix into `out_dir` and return its manifest. Each step logs one line.

    Golds are graded by our graders, or by `reward`, under which rows may be of any source. With `any_source` nobody grades those
    of unknown sources. A build that fails leaves an earlier finished one as it was, and the rows that it dropped in the folder
    FAILED. Raises DataError with every problem found."""
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
        used_rates = _across_rows(mix, pool)
        entries = _source_entries(mix, origins, pool)
        try:
            chosen = splits.choose_rows(mix, pool)
        except DataError as error:
            raise _explain_failure(error, out_dir, mix, pool, entries) from None
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
            "sources": entries,
            "overlap": {each.name: each.report() for each in sets},
            "files": {f"{name}.parquet": _file_entry(mix, pool, name, each) for name, each in chosen.items()}
            | {DROPPED: {}},
            "tools": {name: version(name) for name in ("pyarrow", "numpy")},
            "inspected": [],
            **({"reward": manifest.describe_reward(reward)} if reward else {}),
            **({"rates": used_rates} if used_rates else {}),
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
    for loss in heavy_losses(mix, entries, out_dir / DROPPED):
        log.warning(f"warning: {loss}")
    return content


def _explain_failure(
    error: DataError, out_dir: Path, mix: Mix, pool: Pool, entries: Mapping[str, Mapping[str, Any]]
) -> DataError:
    """The problems of splits that could not be filled, after what dropped most rows of their sources. Keeps these rows."""
    kept = out_dir / FAILED / DROPPED
    kept.parent.mkdir(exist_ok=True)
    parquet.write_dropped(kept, mix, pool)
    *others, last = [*heavy_losses(mix, entries, kept), *error.problems]
    remedy = f"{last.remedy}\nThe dropped rows with their reasons: {kept}" if pool.details else last.remedy
    return DataError(*others, replace(last, remedy=remedy))


def _require_callable(reward: OwnReward) -> None:
    try:
        reward.check_signature()
    except RewardError as error:
        raise DataError(Problem(f"reward={reward.word}", str(error), f"VeRL calls it with {SIGNATURE}")) from None


def _across_rows(mix: Mix, pool: Pool) -> dict[str, Any]:
    """Drop rows for what other rows and pass rates say; returns what the manifest says of the rates.

    Rows of evaluation sets are never dropped, but count as earlier rows.
    """
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
    used = rates.apply_rates(mix.rates, pool, switches.get(rates.PASS_RATE, True)) if mix.rates else {}
    pool.restore(whole)
    for name in mix.sources:
        if drops := manifest.describe_drops(_count_drops(mix, name, pool)):
            log.info(f"{name}: dropped {drops}")
    return used


def _count_drops(mix: Mix, source: str, pool: Pool) -> dict[str, Any]:
    """The dropped rows of a source by reason: those that no split can use, and the others by the kind of row that they are
    unfit for."""
    number, kinds = list(mix.sources).index(source), mix.uses_of(source).kinds
    unfit = {kind: drops for kind, parts in kinds.items() if (drops := pool.count_drops(number, parts))}
    return {"drops": pool.count_drops(number)} | ({"unfit": unfit} if unfit else {})


def _source_entries(mix: Mix, origins: Mapping[str, Any], pool: Pool) -> dict[str, Any]:
    entries = {}
    for name, spec in mix.sources.items():
        kind, drops = KINDS[spec.kind], _count_drops(mix, name, pool)
        entries[name] = {
            "kind": kind.kind, "role": kind.role, "data_source": spec.data_source,
            "licence": kind.licence, "origin": kind.origin,
            **origins[name], "rows_kept": origins[name]["rows_in"] - sum(drops["drops"].values()), **drops,
        }  # fmt: skip
    return entries


def _remove_leftovers(out_dir: Path) -> None:
    """Remove what builds of this machine left that were killed (one that still runs keeps its own), and what the last failed
    build dropped."""
    for left in out_dir.glob(f"{_BUILDING}{socket.gethostname()}-*"):
        pid = left.name.split("-")[-2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(out_dir / FAILED, ignore_errors=True)


def _file_entry(mix: Mix, pool: Pool, name: str, selection: splits.Selection) -> dict[str, Any]:
    names = list(mix.sources)
    counts = Counter(names[number] for number in pool.source[selection.rows].tolist())
    tokens = splits.shown_tokens(name, pool)[selection.rows]
    statistics = {}
    if len(tokens):
        statistics = {"total": int(tokens.sum()), "mean": round(float(tokens.mean()), 2), "max": int(tokens.max())}
    return {"rows": len(tokens), "rows_by_source": dict(sorted(counts.items())), "tokens": statistics}
