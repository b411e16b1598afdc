"""Hashes that depend on the text alone: equal texts in any batch, different texts apart, n-grams at their places."""

import re

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from data_prep.fingerprint import EXACT, LOOSE, hash_words, row_keys

TEXTS = st.lists(st.text(alphabet="ab1 +-\n\té$", max_size=12), min_size=1, max_size=12)


@given(TEXTS)
def test_row_keys_are_equal_exactly_when_the_words_are(texts):
    keys = row_keys(pa.array(texts))
    split = [tuple(re.findall(r"[^ \n\t]+", text)) for text in texts]
    for i in range(len(texts)):
        for j in range(len(texts)):
            assert (keys[i] == keys[j]) == (split[i] == split[j])


@given(TEXTS, st.integers(1, 3))
def test_ngrams_are_those_of_each_row(texts, n):
    found = hash_words(pa.array(texts), LOOSE)
    hashes, starts = found.ngrams(n)
    split = [re.findall(r"[a-z0-9é]+", text.lower()) for text in texts]
    wanted = [tuple(row[i : i + n]) for row in split for i in range(len(row) - n + 1)]
    assert len(hashes) == len(wanted)
    same = dict(zip(wanted, hashes.tolist(), strict=True))
    assert all(same[gram] == value for gram, value in zip(wanted, hashes.tolist(), strict=True))
    assert len(set(same.values())) == len(same)
    assert np.diff(found.offsets).tolist() == [len(row) for row in split]
    assert sorted(starts.tolist()) == starts.tolist()


def test_batches_and_slices_do_not_matter():
    texts = pa.array([f"row {i} has its own words {i * 7}" for i in range(5000)])
    whole = row_keys(texts)
    parts = np.concatenate([row_keys(texts.slice(at, 777)) for at in range(0, 5000, 777)])
    assert (whole == parts).all() and len(np.unique(whole)) == 5000


def test_values_stay_the_same_for_ever():
    """Split membership hangs on them: a change would move rows between training and test."""
    assert hash_words(pa.array(["47+85="]), EXACT).rows.tolist() == [KNOWN]


KNOWN = 6730617716910655985
