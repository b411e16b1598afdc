"""From answers to figures: what counts as right, votes, and what the result of an evaluation says."""

import pytest

from posttrain_verl.evaluate import grading
from posttrain_verl.evaluate.job import Question
from posttrain_verl.evaluate.result import Answer


def graded(text, gold="18", source="openai/gsm8k", sample=0, name="q", truncated=False):
    question = Question(name, [{"role": "user", "content": "How many?"}], source, gold, {})
    return grading.grade_answer(question, "2", Answer(name, sample, text, 5, truncated))


def verdict(item):
    return item["acc"], item["strict_acc"], item["flexible_acc"], item["error"]


def test_strict_and_flexible():
    assert verdict(graded("9 * 2 = 18\n#### 18")) == (1, 1, 1, None)
    assert verdict(graded("So she makes 18 dollars.")) == (1, 0, 1, None), "GSM8K is graded flexibly"
    assert verdict(graded("So she makes 18 dollars.", source="embedded/sums")) == (0, 0, 1, "format")
    assert verdict(graded("9 * 2 = 19\n#### 19")) == (0, 0, 0, "logic")


def test_an_item_has_what_a_reader_needs():
    item = graded("#### 18", sample=3)
    assert (item["id"], item["sample"], item["stratum"], item["question"]) == ("q", 3, "2", "How many?")
    assert (item["tokens"], item["truncated"], item["pred"], item["evidence"]) == (5, False, "18", "")


def test_a_gold_that_no_grader_reads_is_the_verifiers_failure():
    item = graded("#### 18", gold=" ")
    assert (item["verifier_error"], item["error"]) == (1, "verifier")
    assert "empty" in item["evidence"]


def test_the_majority_counts_equal_numbers_as_one_vote():
    votes = ["#### 18", "#### 18.00", r"\boxed{17}", "#### 17", "#### $18"]
    assert grading.majority_vote([graded(text) for text in votes]) == 1.0
    assert grading.majority_vote([graded(text) for text in ("#### 18", "#### 17")]) == 0.5
    assert grading.majority_vote([graded("I do not know."), graded("")]) == 0.0
    assert grading.majority_vote([graded(text, source="embedded/sums") for text in ("no", "hm", "#### 18")]) == 1.0


def test_metrics_by_hand():
    right, wrong, cut = "#### 18", "#### 17", "First"
    answers = {"a": [right, right, wrong, wrong], "b": [wrong, cut, cut, right], "c": [wrong] * 4}
    items = [graded(text, name=name, sample=n, truncated=text == cut)
             for name, texts in answers.items() for n, text in enumerate(texts)]  # fmt: skip
    found = {name: metric["value"] for name, metric in grading.compute_metrics(items, 4).items()}
    assert found["accuracy"] == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert found["pass@1"] == pytest.approx(found["accuracy"])
    assert found["pass@2"] == pytest.approx((1 - 1 / 6 + 1 - 3 / 6 + 0) / 3)
    assert found["pass@4"] == pytest.approx(2 / 3)
    assert found["maj@4"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert found["truncated"] == pytest.approx(0.5 / 3) and found["unanswered"] == pytest.approx(0.5 / 3)
    assert all(metric["n"] == 3 for metric in grading.compute_metrics(items, 4).values())
    assert grading.error_counts(items) == {"format": 2, "logic": 0, "knowledge": 7, "verifier": 0}
    assert (
        grading.pass_sizes(8) == [1, 2, 4, 8] and grading.pass_sizes(6) == [1, 2, 4, 6] and grading.pass_sizes(1) == [1]
    )


def test_programs_are_not_voted_on():
    tests = '{"test_list": ["assert f(1) == 2"]}'
    item = graded("```python\ndef f(x):\n    return x\n```", gold=tests, source="mbpp")
    if not item["verifier_error"]:
        assert (item["error"], item["strict_acc"]) == ("logic", 0)
    assert "maj@2" not in grading.compute_metrics([item, {**item, "sample": 1}], 2)
