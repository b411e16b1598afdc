"""The proof fails where an export is not the trained model."""

from types import SimpleNamespace

import pytest
import torch

from posttrain_verl.export import proof
from posttrain_verl.terminal.command_line import read
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Export


def test_other_log_probabilities_are_noticed():
    assert proof.check_agreement("", [-1.0, -2.0], [-1.0, -2.0005], "float32").passed
    assert not proof.check_agreement("", [-1.0, -2.0], [-1.0, -2.1], "float32").passed
    assert proof.check_agreement("", [-0.5, -20.0], [-0.58, -21.2], "bfloat16").passed
    assert not proof.check_agreement("", [-0.5, -20.0], [-0.62, -20.0], "bfloat16").passed


def test_unchanged_weights_are_noticed():
    base = {"a": torch.ones(3), "b": torch.ones(2)}
    assert not proof.check_change(base, {"a": torch.ones(3), "b": torch.ones(2)}).passed
    moved = proof.check_change(base, {"a": torch.ones(3), "b": torch.full((2,), 1.1)})
    assert moved.passed
    assert moved.saw.startswith("1 of 2 tensors differ")


def test_a_lost_end_of_text_is_noticed():
    facts = {"eos_token_id": 2, "pad_token_id": 0, "chat_template": "t", "eos_token": "</s>", "pad_token": "<pad>"}
    assert proof.check_tokens_kept(SimpleNamespace(**facts), SimpleNamespace(**facts)).passed
    lost = proof.check_tokens_kept(SimpleNamespace(**facts), SimpleNamespace(**(facts | {"eos_token_id": 0})))
    assert not lost.passed
    assert "eos_token_id" in lost.saw


@pytest.mark.parametrize(
    ("words", "named"),
    [([], "run= is missing"), (["run=x", "form=half"], "form=half"), (["run=x", "dtype=int4"], "dtype=int4"),
     (["run=x", "stp=4"], "'stp=4' is not an option")],
)  # fmt: skip
def test_unknown_words_are_named(words, named):
    with pytest.raises(InputError, match=named):
        read(Export, words)
