"""Rollouts for the reader of the page: an index with numbers of all, and the texts in compressed chunks.

VeRL writes one file a step, `rollouts/<step>.jsonl` and `validation/<step>.jsonl`, with `input`, `output`, `gts`,
`score`, `step` and whatever the reward returned. The browser decodes a chunk when one of its rows is looked at.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Any

from posttrain_verl.report.run import Evaluation, JsonObject, dump_json, parse_line
from posttrain_verl.verl.verdicts import Verdicts

LIMIT = 100_000  # rollouts that a page holds by default
CHUNK_ROWS = 256
BATCH_BYTES = 1 << 20  # of the files that are encoded together
TEXTS = ("input", "output", "gts", "score", "step")  # of VeRL's line; everything else is part of the grade
ITEM_TEXTS = ("question", "answer", "gold", "score")  # the same of an item of an evaluation
KINDS = ("right", "wrong", "format", "logic", "knowledge", "verifier", "unanswered", "scored")
GRADED = Verdicts(has_acc=True)  # of an evaluation


@dataclass
class Chunk:
    """Up to CHUNK_ROWS rollouts: `rows` are their (step, score, kind, characters, group), `block` their texts, gzipped JSON."""

    kind: str
    rows: list[tuple[int, float | None, int, int, int]]
    block: bytes

    @cached_property
    def name(self) -> str:
        """Says what is in the block: a page that is out of date never gets the texts of other rollouts."""
        return sha256(self.block).hexdigest()[:16]


@dataclass
class Rollouts:
    """All chunks of a page. `total` counts what lies in the folder; of each `stride` steps one is shown."""

    chunks: list[Chunk] = field(default_factory=list)
    total: int = 0
    stride: int = 1

    @property
    def shown(self) -> int:
        return sum(len(chunk.rows) for chunk in self.chunks)

    def index(self) -> bytes:
        """The columns of all rows as gzipped JSON. For each chunk its name, its set and its rows."""
        rows = [row for chunk in self.chunks for row in chunk.rows]
        steps, scores, kinds, lengths, groups = zip(*rows, strict=True) if rows else ((),) * 5
        return pack_json({
            "chunks": [chunk.name for chunk in self.chunks], "sets": [chunk.kind for chunk in self.chunks],
            "sizes": [len(chunk.rows) for chunk in self.chunks],
            "kinds": KINDS, "step": steps, "score": scores, "kind": kinds, "length": lengths, "group": groups,
        })  # fmt: skip


@dataclass(frozen=True)
class Dump:
    """One file of VeRL as it was when it was looked at."""

    path: Path
    changed: int
    size: int


def read_rollouts(
    folder: Path, evaluations: Sequence[Evaluation] = (), limit: int = LIMIT, verdicts: Verdicts = GRADED
) -> Rollouts:
    """The rollouts of a run and the answers of its evaluations; whole steps are left out where there are more than `limit`.

    `verdicts` says which of the rollouts are right.
    """
    sets = {"training": _list_dumps(folder / "rollouts"), "held out": _list_dumps(folder / "validation")}
    total = sum(count_rollouts(dump) for found in sets.values() for dump in found)
    stride = 1
    while total > limit * stride:
        stride *= 2
    thinned = {name: [*found[:-1:stride], *found[-1:]] for name, found in sets.items()}  # and always the last step
    batches = [(name, batch) for name, found in thinned.items() for batch in _batch_files(found)]
    with ThreadPoolExecutor() as pool:
        chunks = [chunk for made in pool.map(lambda pair: encode_batch(*pair, verdicts), batches) for chunk in made]
    for each in evaluations:
        records = [
            {"input": _as_text(item.get("question")), "output": item.get("answer"), "gts": item.get("gold"),
             "score": item.get("score"), **{key: value for key, value in item.items() if key not in ITEM_TEXTS}}
            for item in each.items
        ]  # fmt: skip
        name = f"evaluation: {each.label} on {each.name}"
        chunks += [_make_chunk(name, piece, GRADED) for piece in _split_pieces(records)]
    return Rollouts(chunks, total + sum(len(each.items) for each in evaluations), stride)


@lru_cache(maxsize=1 << 16)
def count_rollouts(dump: Dump) -> int:
    return dump.path.read_bytes().count(b"\n")


@lru_cache(maxsize=1 << 12)
def encode_batch(kind: str, batch: tuple[Dump, ...], verdicts: Verdicts) -> list[Chunk]:
    """The chunks of some files. A live page asks again every few seconds, and of most files nothing has changed."""
    records = [record for dump in batch for record in _read_records(dump)]
    return [_make_chunk(kind, piece, verdicts) for piece in _split_pieces(records)]


def held_out_accuracies(folder: Path, verdicts: Verdicts) -> dict[int, float]:
    """The share of right answers in each validation, by its step."""
    shares = {int(dump.path.stem): _share_right(dump, verdicts) for dump in _list_dumps(folder / "validation")}
    return {step: share for step, share in shares.items() if share is not None}


@lru_cache(maxsize=1 << 12)
def _share_right(dump: Dump, verdicts: Verdicts) -> float | None:
    found = [right for record in _read_records(dump) if (right := verdicts.is_right(record)) is not None]
    return fmean(found) if found else None


def _read_records(dump: Dump) -> list[JsonObject]:
    return [record for line in dump.path.read_bytes().splitlines() if (record := parse_line(line))]


def pack_json(value: Any) -> bytes:
    """Gzipped JSON, the same bytes for the same value."""
    return gzip.compress(dump_json(value), compresslevel=5, mtime=0)


def _list_dumps(folder: Path) -> list[Dump]:
    numbered = [path for path in folder.glob("*.jsonl") if path.stem.isdecimal()]
    facts = [(path, path.stat()) for path in sorted(numbered, key=lambda path: int(path.stem))]
    return [Dump(path, each.st_mtime_ns, each.st_size) for path, each in facts]


def _batch_files(found: Sequence[Dump]) -> Iterator[tuple[Dump, ...]]:
    """Consecutive files of about BATCH_BYTES together, so that ten thousand small ones make few chunks."""
    batch: list[Dump] = []
    for dump in found:
        batch.append(dump)
        if sum(each.size for each in batch) >= BATCH_BYTES:
            yield tuple(batch)
            batch = []
    if batch:
        yield tuple(batch)


def _split_pieces(records: Sequence[JsonObject]) -> Iterator[Sequence[JsonObject]]:
    """Pieces of at least CHUNK_ROWS that never part the answers to one prompt."""
    start = 0
    for at in range(1, len(records) + 1):
        whole = at == len(records) or records[at - 1].get("input") != records[at].get("input")
        if whole and (at == len(records) or at - start >= CHUNK_ROWS):
            yield records[start:at]
            start = at


def _make_chunk(kind: str, records: Sequence[JsonObject], verdicts: Verdicts) -> Chunk:
    """Prompts and golds that several rollouts share are held once."""
    prompts: dict[str, int] = {}
    golds: dict[str, int] = {}
    texts: dict[str, list[Any]] = {"p": [], "g": [], "output": [], "parts": []}
    rows = []
    for record in records:
        output, score = _as_text(record.get("output")), _read_score(record)
        prompt = prompts.setdefault(_as_text(record.get("input")), len(prompts))
        texts["p"].append(prompt)
        texts["g"].append(golds.setdefault(_as_text(record.get("gts")), len(golds)))
        texts["output"].append(output)
        texts["parts"].append({key: value for key, value in record.items() if key not in TEXTS})
        kind_at = KINDS.index(record_kind(record, verdicts))
        rows.append((int(record.get("step") or 0), score, kind_at, len(output), prompt))
    return Chunk(kind, rows, pack_json({"prompts": list(prompts), "golds": list(golds), **texts}))


def record_kind(record: JsonObject, verdicts: Verdicts) -> str:
    """One of KINDS. An evaluation sorted its errors; a rollout has at most its grade, a training rollout only its score.

    `scored` is an answer with a reward that nobody declared right or wrong.
    """
    if record.get("verifier_error"):
        return "verifier"
    if record.get("error") in KINDS:
        return str(record["error"])
    right = verdicts.is_right(record)
    if right:
        return "right"
    return "unanswered" if record.get("answered") == 0 else "scored" if right is None else "wrong"


def _read_score(record: JsonObject) -> float | None:
    value = record.get("score")
    return float(value) if isinstance(value, int | float) else None


def _as_text(value: Any) -> str:
    """A text; of chat messages their contents, of anything else its JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(turn, dict) and "content" in turn for turn in value):
        return "\n\n".join(str(turn["content"]) for turn in value)
    return "" if value is None else dump_json(value).decode()
