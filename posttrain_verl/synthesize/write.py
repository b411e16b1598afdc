"""The files of a synthesized data set: Parquet in the schemas of data_prep, and the manifest, written last.

The same answers and settings give the same bytes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import manifest as manifests
from data_prep.parquet import DROPPED
from data_prep.schema import ITEM, PAIRS, SFT, RowKind
from data_prep.sources.synthesized import KIND, RATES, RATES_SCHEMA, SYNTHESIZED, row_id
from posttrain_verl.synthesize.job import Job
from posttrain_verl.synthesize.questions import Asked, HeldOut
from posttrain_verl.synthesize.selection import Graded, Lengths, Pair, Rate, is_validation

DROPPED_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("source", "reason", "detail", "dropped_from")] + list(ITEM)
)
DROPPED_ROWS = 1000  # of one reason and source
BUILDING = ".building-"


@dataclass(frozen=True)
class Selected:
    """All that goes into the files. `left_out` counts right answers that no solution is made of by source and reason, `unpaired`
    what stands in no pair, and `contaminated` has the questions that were not asked, with what they share."""

    asked: Sequence[Asked]
    answers: Sequence[Graded]
    solutions: Sequence[Graded]
    pairs: Sequence[Pair]
    rates: Mapping[str, Rate]
    left_out: Mapping[str, Counter[str]]
    unpaired: Counter[str]
    contaminated: Mapping[str, str]
    prompt_tokens: int = 0
    by_id: dict[str, Asked] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.by_id.update((each.id, each) for each in self.asked)

    def difficulty(self, name: str) -> float | None:
        """1 - pass rate of a question; None where no answer has a verdict."""
        rate = self.rates[name].rate
        return None if rate is None else 1 - rate


def settings_of(job: Job) -> dict[str, Any]:
    """What the data follows from, in the place of the mix: a set is finished if its manifest says the same."""
    mix = job.questions.manifest.get("mix") or {}
    return {
        "name": job.folder.name,
        "sources": dict(mix.get("sources") or {}),
        "prompts": dict(mix.get("prompts") or {}),
        KIND: {
            "questions": job.questions.sha256, "n": job.n, "rows": job.rows, "stratify": job.stratify,
            "selection": asdict(job.rules), "val": job.val, "right_at": job.right_at, **dict(job.teacher.identity),
            "reward": manifests.describe_reward(job.reward) if job.reward else None,
        },
    }  # fmt: skip


def write_set(job: Job, selected: Selected, held_out: HeldOut) -> dict[str, Any]:
    """Write the files into the folder of the job; returns the manifest. What was there before is replaced at the end."""
    with tempfile.TemporaryDirectory(prefix=BUILDING, dir=job.folder) as name:
        scratch = Path(name)
        tables = _tables(job, selected)
        entries: dict[str, dict[str, Any]] = {}
        for file, table in tables.items():
            pq.write_table(table, scratch / file, compression="zstd", version="2.6", store_schema=False)
            entries[file] = {**_counts(table, selected, file), "bytes": (scratch / file).stat().st_size,
                             "sha256": manifests.file_sha256(scratch / file)}  # fmt: skip
        content = _manifest(job, selected, held_out, entries)
        (job.folder / manifests.FILE_NAME).unlink(missing_ok=True)
        for old in job.folder.glob("*.parquet"):
            old.unlink()
        for file in tables:
            os.replace(scratch / file, job.folder / file)
    manifests.write_manifest(job.folder, content)
    return manifests.read_manifest(job.folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed call left half written. Only the one that has the folder's lock may do so."""
    for left in folder.glob(f"{BUILDING}*"):
        shutil.rmtree(left, ignore_errors=True)


def _tables(job: Job, selected: Selected) -> dict[str, pa.Table]:
    """The files that have rows, by name."""
    names = dict.fromkeys(pair.chosen.id for pair in selected.pairs)
    held = {name for name in names if is_validation(name, job.val, job.rules.seed)}
    rows = {
        SFT.training_split: (SFT, [_sft_row(job, selected, each) for each in selected.solutions]),
        PAIRS.validation_split: (
            PAIRS,
            [_pair_row(job, selected, each) for each in selected.pairs if each.chosen.id in held],
        ),
        PAIRS.training_split: (
            PAIRS,
            [_pair_row(job, selected, each) for each in selected.pairs if each.chosen.id not in held],
        ),
    }
    found = {f"{name}.parquet": _split_table(name, kind, parts) for name, (kind, parts) in rows.items() if parts}
    found[RATES] = pa.Table.from_pylist(
        [_rate_row(each, selected.rates[each.id]) for each in selected.asked], RATES_SCHEMA
    )
    found[DROPPED] = pa.Table.from_pylist(list(_dropped_rows(selected)), DROPPED_SCHEMA)
    return found


def _split_table(split: str, kind: RowKind, rows: Sequence[dict[str, Any]]) -> pa.Table:
    for index, row in enumerate(rows):
        row["extra_info"] |= {"split": split, "index": index}
    return pa.Table.from_pylist(list(rows), kind.schema)


def _shared(job: Job, selected: Selected, name: str, *samples: int) -> dict[str, Any]:
    """The columns that every kind of row has."""
    one = selected.by_id[name]
    prompt = job.questions.prompt_for(one.ability)
    facts = {"id": row_id(name, *samples), "source": one.source, "difficulty": selected.difficulty(name), "stage": None,
             "answer_mark": prompt.mark if prompt else one.question.facts.get("answer_mark")}  # fmt: skip
    return {"data_source": one.question.data_source, "ability": one.ability, "extra_info": facts}


def _said(answer: Graded) -> dict[str, str]:
    return {"role": "assistant", "content": answer.text}


def _sft_row(job: Job, selected: Selected, answer: Graded) -> dict[str, Any]:
    messages = [*selected.by_id[answer.id].messages, _said(answer)]
    return {**_shared(job, selected, answer.id, answer.sample), "messages": messages}


def _pair_row(job: Job, selected: Selected, pair: Pair) -> dict[str, Any]:
    shared = _shared(job, selected, pair.chosen.id, pair.chosen.sample, pair.rejected.sample)
    return {**shared, "prompt": selected.by_id[pair.chosen.id].messages, "chosen": [_said(pair.chosen)],
            "rejected": [_said(pair.rejected)]}  # fmt: skip


def _rate_row(one: Asked, rate: Rate) -> dict[str, Any]:
    return {**asdict(rate), "question": one.text, "answer": one.gold, "data_source": one.question.data_source,
            "ability": one.ability, "source": one.source}  # fmt: skip


def _dropped_rows(selected: Selected) -> Iterable[dict[str, Any]]:
    """Right answers that are not shown for a flaw, as `inspect` shows them: up to 1000 of each reason and source."""
    kept: Counter[tuple[str, str]] = Counter()
    for answer in selected.answers:
        one = selected.by_id[answer.id]
        kept[one.source, answer.flaw] += bool(answer.flaw)
        if answer.flaw and kept[one.source, answer.flaw] <= DROPPED_ROWS:
            yield {"source": one.source, "reason": answer.flaw, "detail": answer.detail, "dropped_from": SFT.name,
                   "id": row_id(answer.id, answer.sample), "question": one.text, "answer": one.gold,
                   "solution": answer.text}  # fmt: skip


def _counts(table: pa.Table, selected: Selected, file: str) -> dict[str, Any]:
    """The rows of a file by source, for those of a split."""
    if file in (RATES, DROPPED):
        return {}
    sources = Counter(row["source"] for row in table["extra_info"].to_pylist())
    return {"rows": table.num_rows, "rows_by_source": dict(sorted(sources.items()))}


def _manifest(job: Job, selected: Selected, held_out: HeldOut, entries: Mapping[str, Any]) -> dict[str, Any]:
    settings = settings_of(job)
    tokens = sum(answer.tokens for answer in selected.answers)
    cost = job.teacher.endpoint.cost(selected.prompt_tokens, tokens) if job.teacher.endpoint else None
    overlap = job.questions.manifest.get("overlap") or {}
    return {
        "schema_version": manifests.SCHEMA_VERSION,
        "mix": {**settings, "sources": {**settings["sources"], **held_out.mix_sources()}},
        "mix_sha256": manifests.config_digest(settings),
        "seed": job.rules.seed,
        "teacher": job.teacher.facts(),
        "questions": {"file": str(job.questions.file), "asked": len(selected.asked), "held_out": len(selected.contaminated)},
        "answers": {**_verdicts(selected.answers), "tokens": tokens, "prompt_tokens": selected.prompt_tokens,
                    **({} if cost is None else {"cost": cost})},
        "by_difficulty": _by_difficulty(selected),
        "sources": {name: _source_entry(name, selected) for name in sorted({each.source for each in selected.asked})},
        "pairs": {"n": len(selected.pairs), "lengths": asdict(Lengths.of(selected.pairs)), "left_out": dict(selected.unpaired)},
        "overlap": {**overlap, **held_out.report()},
        "not_compared": held_out.not_compared(settings["sources"], overlap),
        "files": dict(entries),
        "tools": {name: version(name) for name in ("pyarrow", "numpy")},
        "inspected": [],
    }  # fmt: skip


def _verdicts(answers: Sequence[Graded]) -> dict[str, Any]:
    """How many answers there are, by verdict; `acceptance` is the share of right ones among those with a verdict."""
    right, undecided = sum(each.is_right is True for each in answers), sum(each.is_right is None for each in answers)
    decided = len(answers) - undecided
    return {"n": len(answers), "right": right, "wrong": decided - right, "undecided": undecided,
            "cut_off": sum(each.cut_off for each in answers),
            "no_text": dict(Counter(each.no_text for each in answers if each.no_text)),
            "acceptance": round(right / decided, 4) if decided else None}  # fmt: skip


def _by_difficulty(selected: Selected) -> dict[str, Any]:
    """Questions and verdicts of their answers, by what the mix says of the difficulty."""
    groups: dict[str, list[Graded]] = {}
    questions: Counter[str] = Counter()
    level = {each.id: _level(each.question.facts.get("difficulty")) for each in selected.asked}
    questions.update(level.values())
    for answer in selected.answers:
        groups.setdefault(level[answer.id], []).append(answer)
    return {name: {"questions": questions[name], **_verdicts(groups.get(name, []))} for name in sorted(questions)}


def _level(difficulty: float | None) -> str:
    return "unknown" if difficulty is None else f"{difficulty:.2g}"


def _source_entry(name: str, selected: Selected) -> dict[str, Any]:
    """What became of the answers to the questions of a source, in the form of a mix's source."""
    mine = [answer for answer in selected.answers if selected.by_id[answer.id].source == name]
    verdicts = _verdicts(mine)
    kept = sum(selected.by_id[answer.id].source == name for answer in selected.solutions)
    drops = {"wrong": verdicts["wrong"], "undecided": verdicts["undecided"], **selected.left_out.get(name, {})}
    return {
        "kind": KIND, "role": SYNTHESIZED.role, "licence": SYNTHESIZED.licence, "origin": SYNTHESIZED.origin,
        "questions": sum(each.source == name for each in selected.asked), "rows_in": len(mine), "rows_kept": kept,
        "acceptance": verdicts["acceptance"], "drops": {reason: count for reason, count in drops.items() if count},
    }  # fmt: skip
