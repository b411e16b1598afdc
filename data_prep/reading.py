"""Every source of a mix into the pool, each row with the reason to drop it, if there is one."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import contamination, filters, lengths, render
from data_prep.filters import REASONS
from data_prep.fingerprint import row_keys, scramble
from data_prep.mix import Mix
from data_prep.pool import Pool
from data_prep.sources import KINDS, SourceSpec
from data_prep.sources.source import Opened

BATCH_BYTES = 2**20  # hashing needs some thirty times as much while it works


@dataclass(frozen=True)
class _Judged:
    items: pa.RecordBatch
    columns: dict[str, np.ndarray]
    details: dict[int, str]
    overlaps: contamination.Overlaps | None


class Reading:
    """One pass over all sources. Evaluation sets are read first and are never filtered: they must stay whole."""

    def __init__(self, mix: Mix, pool: Pool, progress: Callable[[str], None]):
        self.mix, self.pool, self.progress = mix, pool, progress
        self.numbers = {name: number for number, name in enumerate(mix.sources)}
        self.held_out = mix.held_out()
        self.filters = filters.chosen(mix.filters)
        limits = mix.filters.get("too_long") or {}
        self.most = {"prompt": limits.get("prompt"), "solution": limits.get("solution")}
        self.count = lengths.counter(limits.get("tokenizer", "bytes"))
        self.detector = contamination.Detector([], mix.ngrams, mix.drop_ngram)

    def run(self) -> tuple[dict[str, Any], list[contamination.EvalSet]]:
        """Read everything; returns what makes each source again, and what overlaps with the evaluation sets."""
        origins = {name: self._read(self.mix.sources[name], content=False) for name in self.held_out}
        sets = [contamination.index(name, self._stored(name), self.mix.ngrams) for name in self.mix.against]
        self.detector = contamination.Detector(sets, self.mix.ngrams, self.mix.drop_ngram)
        for name, spec in self.mix.sources.items():
            if name not in self.held_out:
                origins[name] = self._read(spec, content=True)
        self.pool.close()
        return origins, sets

    def _read(self, spec: SourceSpec, content: bool) -> dict[str, Any]:
        opened = KINDS[spec.kind].open(spec)
        rows = 0
        batches = _bite_sized(_limited(opened, self.mix.read_at_most))
        for judged in _in_threads(lambda batch: self._judge(spec, batch, content), batches):
            self._store(judged)
            rows += judged.items.num_rows
        self.progress(f"{spec.name}: {rows} rows read")
        return dict(opened.provenance) | {"rows_in": rows}

    def _judge(self, spec: SourceSpec, items: pa.RecordBatch, content: bool) -> _Judged:
        """Everything that a batch says by itself: depends on nothing but its rows, so the order of threads is free."""
        verdict = filters.judge(items, self.filters if content else (), spec)
        details = {row: detail for row, detail in enumerate(verdict.detail) if detail} if any(verdict.detail) else {}
        tokens = self._lengths(spec, items, verdict.reason, details, content)
        keys = row_keys(items["question"])
        columns = {
            "source": np.full(items.num_rows, self.numbers[spec.name]),
            "key": keys,
            "identity": keys if spec.unique == "question" else scramble(keys ^ row_keys(items["solution"])),
            "gold": _gold_keys(items["answer"]),
            "difficulty": items["difficulty"].fill_null(float("nan")).to_numpy(zero_copy_only=False),
            "tokens": tokens,
            "has_answer": items["answer"].is_valid().to_numpy(zero_copy_only=False),
            "has_solution": items["solution"].is_valid().to_numpy(zero_copy_only=False),
            "reason": verdict.reason,
        }
        return _Judged(items, columns, details, self.detector.check(items) if content else None)

    def _store(self, judged: _Judged) -> None:
        reason = judged.columns["reason"]
        if judged.overlaps is not None:
            for row, detail in self.detector.record(judged.items, judged.overlaps).items():
                if reason[row] == 0:
                    reason[row], judged.details[row] = REASONS.index("contaminated"), detail
        self.pool.append(judged.items, judged.columns, judged.details)

    def _lengths(
        self, spec: SourceSpec, items: pa.RecordBatch, reason: np.ndarray, details: dict[int, str], content: bool
    ) -> np.ndarray:
        prompt = self.mix.prompt_for(spec.ability)
        system = self.count(pa.array([prompt.system or ""]))[0]
        parts = {
            "prompt": self.count(render.user_messages(items["question"], prompt)) + system,
            "solution": self.count(items["solution"]),
        }
        for name, found in parts.items():
            most = self.most[name]
            long = np.flatnonzero((found > most) & (reason == 0)) if content and most else ()
            for row in long:
                reason[row], details[int(row)] = (
                    REASONS.index("too_long"),
                    f"{found[row]} tokens of {name}, limit {most}",
                )
        return parts["prompt"] + parts["solution"]

    def _stored(self, name: str) -> Iterator[pa.RecordBatch]:
        """The items of a source that was just read, again."""
        return iter(KINDS[self.mix.sources[name].kind].open(self.mix.sources[name]).batches)


def _in_threads(work: Callable[[pa.RecordBatch], _Judged], batches: Iterable[pa.RecordBatch]) -> Iterator[_Judged]:
    """`work` on each batch, results in the order of the batches. Arrow and numpy let go of Python's lock."""
    threads = min(4, os.cpu_count() or 1)
    waiting: deque[Future[_Judged]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="judge") as pool:
        for batch in batches:
            waiting.append(pool.submit(work, batch))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _bite_sized(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches of at most about BATCH_BYTES, so that memory does not grow with the length of the texts."""
    for batch in batches:
        rows = max(1, batch.num_rows // (batch.nbytes // BATCH_BYTES + 1))
        yield from (batch.slice(first, rows) for first in range(0, batch.num_rows, rows))


def _limited(opened: Opened, rows: int | None) -> Iterable[pa.RecordBatch]:
    if rows is None:
        return opened.batches
    return _first(iter(opened.batches), rows)


def _first(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    while rows > 0 and (batch := next(batches, None)) is not None:
        yield batch.slice(0, rows)
        rows -= batch.num_rows


def _gold_keys(answers: pa.Array) -> np.ndarray:
    """Hashes under which 1,000 and 1000.0 are the same gold."""
    without_commas = pc.replace_substring_regex(answers, r"(\d),(\d{3})", r"\1\2")
    return row_keys(pc.replace_substring_regex(without_commas, r"\.0+$", ""))
