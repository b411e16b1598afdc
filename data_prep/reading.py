"""Every source of a mix into the pool, each row with the reason to drop it, if there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
        for batch in _limited(opened, self.mix.read_at_most):
            rows += batch.num_rows
            self._take(spec, batch, content)
        self.progress(f"{spec.name}: {rows} rows read")
        return dict(opened.provenance) | {"rows_in": rows}

    def _take(self, spec: SourceSpec, items: pa.RecordBatch, content: bool) -> None:
        verdict = filters.judge(items, self.filters if content else (), spec)
        details = {row: detail for row, detail in enumerate(verdict.detail) if detail} if any(verdict.detail) else {}
        tokens = self._lengths(spec, items, verdict.reason, details, content)
        if content:
            for row, detail in self.detector.check(items).items():
                if verdict.reason[row] == 0:
                    verdict.reason[row], details[row] = REASONS.index("contaminated"), detail
        keys = row_keys(items["question"])
        identity = keys if spec.unique == "question" else scramble(keys ^ row_keys(items["solution"]))
        columns = {
            "source": np.full(items.num_rows, self.numbers[spec.name]),
            "key": keys,
            "identity": identity,
            "gold": _gold_keys(items["answer"]),
            "difficulty": items["difficulty"].fill_null(float("nan")).to_numpy(zero_copy_only=False),
            "tokens": tokens,
            "has_answer": items["answer"].is_valid().to_numpy(zero_copy_only=False),
            "has_solution": items["solution"].is_valid().to_numpy(zero_copy_only=False),
            "reason": verdict.reason,
        }
        self.pool.append(items, columns, details)

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
