"""reasoning-gym: 105 families of verifiable tasks, generated offline from a seed.

Licence Apache-2.0. A row of `create_dataset("gsm_symbolic", seed=7)`::

    {"question": "At John's house, there is 3 times as much kiwi as apple. ...", "answer": "288",
     "metadata": {"difficulty": 1.0, "answer_cot": "Let's solve this step by step: ...\\n#### 288", ...}}

Families whose metadata has a worked solution (`answer_cot`) also serve SFT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from data_prep.sources.source import Opened, Options, Source, SourceSpec, in_batches, option_problem, whole_option


def generate(name: str, family: str, options: Options) -> Iterator[Mapping[str, Any]]:
    """Raw rows of one family: `size` rows (default 1000) from `seed` (default 0) with the family's `params`."""
    import reasoning_gym

    size, seed = whole_option(name, options, "size", 1000, 1), whole_option(name, options, "seed", 0)
    try:
        rows = reasoning_gym.create_dataset(family, size=size, seed=seed, **params(name, options))
    except (ValueError, TypeError, AssertionError) as error:
        raise option_problem(
            name, "params", f"reasoning-gym refuses {family!r}: {error}", "see its configuration"
        ) from None
    return (rows[index] for index in range(len(rows)))


def params(name: str, options: Options) -> dict[str, Any]:
    """The family's own settings. Raises DataError if they are no mapping."""
    given = options.get("params") or {}
    if not isinstance(given, Mapping):
        raise option_problem(name, "params", f"is {given!r}, not a mapping", "write {setting: value}")
    return dict(given)


def provenance(family: str, options: Options) -> dict[str, Any]:
    """What makes these rows again."""
    return {"revision": f"reasoning-gym {version('reasoning-gym')}", "family": family, "options": dict(options)}


def _open(spec: SourceSpec) -> Opened:
    name, options = spec.name, spec.options
    if "family" not in options:
        raise option_problem(name, "family", "is missing", "name a family of reasoning-gym, such as gsm_symbolic")
    rows = generate(name, options["family"], options)
    return Opened(provenance(options["family"], options), in_batches(_item(row) for row in rows))


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    metadata = row["metadata"]
    difficulty = metadata.get("difficulty")
    return {
        "id": f"{metadata['source_dataset']}/{metadata['source_index']}",
        "question": row["question"],
        "answer": None if row["answer"] is None else str(row["answer"]),
        "solution": metadata.get("answer_cot"),
        "difficulty": float(difficulty) if isinstance(difficulty, int | float) else None,
    }


SOURCE = Source(
    kind="reasoning_gym",
    data_source="reasoning_gym",
    ability="math",
    uses=("sft", "rl", "eval"),
    role="core",
    licence="Apache-2.0",
    origin="PyPI reasoning-gym",
    options=("family", "params", "size", "seed"),
    open=_open,
)
