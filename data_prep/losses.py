"""What the filters cost: which of them dropped most rows of a source, three of these rows, and how to switch it off."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.errors import Problem
from data_prep.mix import Mix
from data_prep.schema import RL

HEAVY = 0.5  # of a source's rows; fewer are what filters are for
EXAMPLES = 3  # rows that are shown
# A row that repeats another one is not lost: its question stays.
_REPEATS = ("duplicate", "near_duplicate")


def switch_off(reason: str, source: str) -> str:
    """What keeps the rows that are dropped for a reason."""
    if reason == "bad_row":
        return f"correct the rows, or the columns of source {source}; bad_rows: error names each kind of bad row"
    if reason == "duplicate":
        return (
            f"sources.{source}.unique=row keeps other solutions of a question, and filters.duplicate=false every repeat"
        )
    if reason == "pass_rate":
        return "rates.keep=[0,1] keeps them"
    return f"filters.{reason}=false keeps them; in the mix: `filters: {{{reason}: false}}`"


def heavy_losses(mix: Mix, sources: Mapping[str, Mapping[str, Any]], dropped: Path) -> list[Problem]:
    """A problem for each source (an entry of the manifest by name) of which filters dropped more than half, from all splits or
    from those of one kind. `dropped` is the Parquet of dropped rows."""
    return [problem for name, entry in sources.items() for problem in _losses_of(mix, name, entry, dropped)]


def _losses_of(mix: Mix, name: str, entry: Mapping[str, Any], dropped: Path) -> Iterator[Problem]:
    for kind, drops in {"": {}, **(entry.get("unfit") or {})}.items():
        lost = Counter(entry["drops"]) + Counter(drops)
        rows = entry["rows_in"] - sum(lost.pop(reason, 0) for reason in _REPEATS)
        if sum(lost.values()) <= HEAVY * rows:
            continue
        counts = ", ".join(f"{count} {reason}" for reason, count in lost.most_common())
        what = f"{sum(lost.values())} of {rows} rows are dropped{f' from {kind}' if kind else ''}: {counts}"
        yield Problem(f"source {name}", what, "\n".join(_explain(mix, name, lost, rows, dropped)))
        if not kind:
            return  # what every split loses, each kind of split loses


def _explain(mix: Mix, source: str, lost: Counter[str], rows: int, dropped: Path) -> Iterator[str]:
    """Lines about the largest losses: as many as must be undone to keep half of the rows."""
    left = sum(lost.values())
    for reason, count in lost.most_common():
        if left <= HEAVY * rows:
            return
        left -= count
        yield f"{reason}: {switch_off(reason, source)}"
        if hint := _find_hint(mix, source, reason):
            yield f"  {hint}"
        yield from (f"  {row['id']}: {row['detail']}" for row in _read_examples(source, reason, dropped))


def _find_hint(mix: Mix, source: str, reason: str) -> str:
    """What may be better than to keep such rows as they are."""
    spec = mix.sources[source]
    if reason == "missing_final_answer" and not mix.uses_of(source).writes_gold:
        prompt = spec.ability if spec.ability in mix.prompts else "default"
        form = (mix.prompt_for(spec.ability).asked or ("hashes",))[0]
        return f"or let prep write the gold below each solution: prompts.{prompt}.answer={form}"
    if reason == "empty_answer" and RL.name in mix.uses_of(source).kinds:
        return (
            f"but RL is graded by the gold, and check refuses an empty one: name its column in sources.{source}.columns, "
            "or keep the rows for a reward of your own that needs no gold, reward=FILE.py:NAME"
        )
    if reason == "empty_answer" and "columns" in type(spec).model_fields:
        return f"or take answer out of the columns of source {source}: SFT needs no gold"
    if reason == "unreadable_gold" and "answer_pattern" in type(spec).model_fields:
        return (
            f"or give source {source} answer_pattern: a regular expression whose (group) is the gold in a longer text"
        )
    return ""


def _read_examples(source: str, reason: str, dropped: Path) -> list[dict[str, Any]]:
    if not dropped.is_file():
        return []
    chosen = (pc.field("source") == source) & (pc.field("reason") == reason)
    return list(pq.read_table(dropped, columns=["id", "detail"], filters=chosen).slice(0, EXAMPLES).to_pylist())
