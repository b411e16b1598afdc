"""Read every source of a mix into the pool, each row with its length in tokens and the reason to drop it, if there is one.

Lengths are counted with a tokenizer of the mix's choice. The few tokens of the chat template itself are not counted.
"""

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import filters, parquet, repeats
from data_prep.errors import DataError, Problem
from data_prep.filters import Verdict
from data_prep.filters.own_golds import OwnGolds
from data_prep.fingerprint import mix_bits, row_keys
from data_prep.mix import Mix
from data_prep.pool import Pool
from data_prep.schema import QUESTION, SOLUTION
from data_prep.sources import KINDS, SourceSpec
from reward_fns.own import OwnReward

log = logging.getLogger(__name__)

READ_FOR_EACH_ROW = 4  # filters and held-out splits take their share before a limited build gets its rows
BATCH_BYTES = 2**20  # hashing needs some thirty times as much while it works


def token_counter(name: str) -> Callable[[pa.Array], np.ndarray]:
    """A function from texts to their lengths. `bytes` counts UTF-8 bytes, which are the tokens of a byte-level model;
    else the folder, tokenizer.json or hub name of a Hugging Face tokenizer. Raises DataError if it cannot be had."""
    if name == "bytes":
        return lambda texts: pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False)
    from tokenizers import Tokenizer

    path = Path(name).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else Tokenizer.from_pretrained(name)
    except Exception as error:  # the Rust binding raises bare Exception for whatever goes wrong
        remedy = "give the folder of a model that has tokenizer.json, or write bytes"
        raise DataError(Problem("mix.filters.too_long.tokenizer", f"{name}: {str(error)[:200]}", remedy)) from None

    def count(texts: pa.Array) -> np.ndarray:
        encoded = tokenizer.encode_batch_fast(pc.fill_null(texts, "").to_pylist(), add_special_tokens=False)
        return np.array([len(each.ids) for each in encoded], dtype=np.int64)

    return count


@dataclass(frozen=True)
class _Judged:
    items: pa.RecordBatch
    columns: dict[str, np.ndarray]
    verdict: Verdict
    overlaps: repeats.Overlaps | None


class Reading:
    """One pass over all sources. Evaluation sets are read first and are never filtered: they must stay whole."""

    def __init__(self, mix: Mix, pool: Pool, reward: OwnReward | None = None):
        self.mix, self.pool, self.reward = mix, pool, reward
        self.count = token_counter(mix.filters.too_long.tokenizer)
        self.drop_from = mix.decontaminate.drop_from() if mix.filters.named().get("contaminated", True) else None
        self.detector = repeats.Detector([], mix.decontaminate.ngrams, self.drop_from)

    def run(self) -> tuple[dict[str, Any], list[repeats.EvalSet]]:
        """Read everything; returns what makes each source again, and what overlaps with the evaluation sets."""
        sources, held_out, ngrams = self.mix.sources, self.mix.held_out(), self.mix.decontaminate.ngrams
        origins = {name: self._read(sources[name], content=False) for name in held_out}
        sets = [
            repeats.index_eval_set(name, KINDS[sources[name].kind].open(sources[name]).batches, ngrams)
            for name in self.mix.against()
        ]
        self.detector = repeats.Detector(sets, ngrams, self.drop_from)
        origins |= {name: self._read(spec, content=True) for name, spec in sources.items() if name not in held_out}
        self.pool.close()
        return origins, sets

    def _read(self, spec: SourceSpec, content: bool) -> dict[str, Any]:
        opened = KINDS[spec.kind].open(spec)
        golds = (
            OwnGolds(self.reward, self.mix.prompt_for(spec.ability).answer or "plain")
            if self.reward and content
            else None
        )
        chosen = (
            filters.choose_filters(self.mix.filters.named(), golds.explain_failure if golds else None)
            if content
            else ()
        )
        rows, limit = 0, self.mix.limit
        batches = _bite_sized(opened.batches, limit and READ_FOR_EACH_ROW * limit)
        for judged in _in_threads(lambda batch: self._judge(spec, batch, chosen, content), batches):
            verdict, usable = judged.verdict, judged.verdict.may_spoil(QUESTION)
            found = self.detector.record(judged.items, judged.overlaps) if judged.overlaps is not None else {}
            for row, detail in found.items():
                if usable[row]:
                    verdict.spoil(row, QUESTION, "contaminated", detail)
            columns = judged.columns | {"reason": verdict.reason, "spoiled": verdict.spoiled}
            self.pool.append(judged.items, columns, verdict.details)
            rows += judged.items.num_rows
        log.info(f"{spec.name}: {rows} rows read")
        if golds and (fault := golds.find_fault(spec.name)):
            raise DataError(fault)
        if golds and (low := golds.summary()):
            log.warning(f"{spec.name}: {low}")
        return dict(opened.provenance) | {"rows_in": rows}

    def _judge(
        self, spec: SourceSpec, items: pa.RecordBatch, chosen: tuple[filters.Filter, ...], content: bool
    ) -> _Judged:
        """Everything that a batch says by itself: depends on nothing but its rows, so the order of threads is free."""
        verdict = filters.judge_batch(items, chosen, spec, self.mix.uses_of(spec.name))
        prompt, limits = self.mix.prompt_for(spec.ability), self.mix.filters.too_long
        asked = self.count(parquet.user_messages(items["question"], prompt))
        asked = asked + self.count(pa.array([prompt.system or ""]))[0]
        solved = self.count(items["solution"])
        for name, part, found, most in (
            ("prompt", QUESTION, asked, limits.prompt), ("solution", SOLUTION, solved, limits.solution)
        ):  # fmt: skip
            for row in np.flatnonzero((found > most) & verdict.may_spoil(part)).tolist() if content and most else ():
                verdict.spoil(row, part, "too_long", f"{found[row]} tokens of {name}, limit {most}")
        keys = row_keys(items["question"])
        columns = {
            "source": np.full(items.num_rows, list(self.mix.sources).index(spec.name)),
            "key": keys,
            "identity": keys if spec.unique == "question" else _answer_keys(items, keys),
            "gold": _gold_keys(items["answer"]),
            "difficulty": items["difficulty"].fill_null(float("nan")).to_numpy(zero_copy_only=False),
            "asked": asked,
            "solved": solved,
            "has_answer": items["answer"].is_valid().to_numpy(zero_copy_only=False),
            "has_solution": items["solution"].is_valid().to_numpy(zero_copy_only=False),
            "has_rejected": items["rejected"].is_valid().to_numpy(zero_copy_only=False),
        }
        return _Judged(items, columns, verdict, self.detector.check(items) if content else None)


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


def _bite_sized(batches: Iterable[pa.RecordBatch], most: int | None) -> Iterator[pa.RecordBatch]:
    """Batches of at most about BATCH_BYTES, so that memory does not grow with the length of the texts, up to `most` rows
    (None: all). No batch is asked for that is not needed."""
    left, waiting = sys.maxsize if most is None else most, iter(batches)
    while left > 0 and (batch := next(waiting, None)) is not None:
        batch = batch.slice(0, left)
        left -= batch.num_rows
        rows = max(1, batch.num_rows // (batch.nbytes // BATCH_BYTES + 1))
        yield from (batch.slice(first, rows) for first in range(0, batch.num_rows, rows))


def _answer_keys(items: pa.RecordBatch, keys: np.ndarray) -> np.ndarray:
    """Hashes of the questions, their solutions and, in rows that have one, the rejected ones."""
    found = mix_bits(keys ^ row_keys(items["solution"]))
    rejected = items["rejected"].is_valid().to_numpy(zero_copy_only=False)
    found[rejected] = mix_bits(found[rejected] ^ row_keys(items["rejected"].filter(pa.array(rejected))))
    return found


def _gold_keys(answers: pa.Array) -> np.ndarray:
    """Hashes under which 1,000 and 1000.0 are the same gold."""
    without_commas = pc.replace_substring_regex(answers, r"(\d),(\d{3})", r"\1\2")
    return row_keys(pc.replace_substring_regex(without_commas, r"\.0+$", ""))
