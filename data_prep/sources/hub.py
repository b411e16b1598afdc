"""Sources that are a data set of the hub, or local files with the same columns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from data_prep.sources import files
from data_prep.sources.source import Opened, Row, Source, SourceSpec, items


def hub_source(
    kind: str,
    hub: str,
    item: Callable[[Row], Row],
    *,
    data_source: str | None = None,
    ability: str = "math",
    uses: tuple[str, ...] = ("sft", "rl"),
    role: str = "core",
    licence: str,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
) -> Source:
    """Declare a hub data set. `config`, `split` and `revision` are defaults that a mix can replace; without a revision
    the newest is read, and the manifest records which commit that was."""
    defaults = {"config": config, "split": split, "revision": revision}
    return Source(
        kind=kind,
        data_source=data_source or hub,
        ability=ability,
        uses=uses,
        role=role,
        licence=licence,
        origin=f"hub {hub}",
        options=("path", "format", "config", "split", "revision"),
        open=partial(_open, hub=hub, item=item, defaults=defaults),
    )


def _open(spec: SourceSpec, *, hub: str, item: Callable[[Row], Row], defaults: dict[str, str | None]) -> Opened:
    chosen = {key: spec.options.get(key, default) for key, default in defaults.items()}
    origin = files.provenance(spec, hub, chosen["revision"])
    if "path" in spec.options:
        return Opened(origin, items(spec, files.rows(spec), item))
    rows = files.hub_rows(spec, hub, chosen["config"], str(chosen["split"]), origin["revision"])
    return Opened(origin, items(spec, rows, item))
