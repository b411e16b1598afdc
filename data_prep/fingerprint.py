"""64-bit hashes of texts, their words and their word n-grams, a whole Arrow column at a time.

Polynomial hashes modulo 2^64 over one flat byte buffer: with S the running sum of byte[i] * P^i, the hash of any slice
is (S[end] - S[start]) * P^-start, so every word and every n-gram costs one subtraction and one product. Values depend
on the text alone: the same on any machine and in any batch.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_SPACE = 32


def _byte_table(word_bytes: bytes | None, fold_case: bool) -> np.ndarray:
    """Maps each byte to itself or to a space. Bytes above 127 belong to words: UTF-8 letters stay whole."""
    table = np.arange(256, dtype=np.uint8)
    if fold_case:
        table[65:91] += 32
    keep = np.zeros(256, dtype=bool)
    keep[33:] = word_bytes is None
    keep[list(word_bytes or b"")] = True
    keep[128:] = True
    table[~keep] = _SPACE
    return table


# Whitespace is one space, all else counts: `1+2` and `1-2` are different questions.
EXACT = _byte_table(None, fold_case=False)
# Letters and digits only, without case: what n-gram overlap is measured on.
LOOSE = _byte_table(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", fold_case=True)


@cache
def _powers(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """P^0 .. P^(2^bits - 1) and their inverses modulo 2^64."""
    if bits == 0:
        return np.ones(1, dtype=np.uint64), np.ones(1, dtype=np.uint64)
    powers, inverses = _powers(bits - 1)
    step = pow(_BASE, len(powers), 2**64)
    inverse = pow(step, -1, 2**64)
    return np.append(powers, powers * np.uint64(step)), np.append(inverses, inverses * np.uint64(inverse))


def mix_bits(values: np.ndarray) -> np.ndarray:
    """Bijective mixing of uint64 (the finaliser of splitmix64), so that close inputs land far apart."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _hash_slices(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The polynomial hash of values[start:end] for each pair."""
    powers, inverses = _powers(len(values).bit_length())
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return mix_bits((sums[ends] - sums[starts]) * inverses[starts])


@dataclass(frozen=True)
class Words:
    """The words of a column of texts: `hashes` in text order, row r owning hashes[offsets[r]:offsets[r + 1]]."""

    hashes: np.ndarray
    offsets: np.ndarray

    @cached_property
    def rows(self) -> np.ndarray:
        """One hash a row: the same words in the same order give the same hash."""
        return _hash_slices(self.hashes, self.offsets[:-1], self.offsets[1:])

    def ngrams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of all windows of n words that lie within one row, and the word each starts at."""
        owner_end = np.repeat(self.offsets[1:], np.diff(self.offsets))
        starts = np.arange(len(self.hashes))
        starts = starts[starts + n <= owner_end]
        return _hash_slices(self.hashes, starts, starts + n), starts


def hash_words(texts: pa.Array, table: np.ndarray) -> Words:
    """Split a string column into hashed words under `table` (EXACT or LOOSE). Nulls count as empty texts."""
    wide = pc.fill_null(texts.cast(pa.large_string()), "")
    padded = pc.binary_join_element_wise(wide, *(pa.scalar(end, pa.large_string()) for end in ("", " ")))
    ends = np.frombuffer(padded.buffers()[1], dtype=np.int64)[padded.offset : padded.offset + len(padded) + 1]
    data = np.frombuffer(padded.buffers()[2] or b"", dtype=np.uint8)[ends[0] : ends[-1]]
    data = table[data]
    inside = np.concatenate([[False], data != _SPACE])
    edges = np.flatnonzero(inside[1:] != inside[:-1])  # the padding ends every row outside a word: edges come in pairs
    starts, stops = edges[::2], edges[1::2]
    offsets = np.searchsorted(starts, ends - ends[0])
    return Words(_hash_slices(data, starts, stops), offsets)


def row_keys(texts: pa.Array) -> np.ndarray:
    """One uint64 a text, equal for texts that differ in white space only."""
    return hash_words(texts, EXACT).rows
