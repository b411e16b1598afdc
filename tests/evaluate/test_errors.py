"""Why a wrong answer is wrong: each rule by a case, and how often each kind is right on answers sorted by reading."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from posttrain_verl.evaluate import grading
from posttrain_verl.evaluate.job import Question
from posttrain_verl.evaluate.result import ERROR_KINDS, Answer

LABELLED = [json.loads(line) for line in Path(__file__).with_name("labelled_failures.jsonl").read_text().splitlines()]
FLOOR = {"format": 0.93, "logic": 0.93, "knowledge": 0.7, "verifier": 0.9}  # precision of each kind


def item(text, gold="18", source="openai/gsm8k", truncated=False):
    question = Question("q", [{"role": "user", "content": "?"}], source, gold, {})
    return grading.grade_answer(question, None, Answer("q", 0, text, 1, truncated))


@pytest.mark.parametrize(
    ("text", "kind", "evidence"),
    [("", "format", "empty"),
     ("<think>\n9 * 2 = 18", "format", "the thought never ends"),
     ("I cannot say.", "format", "no final answer"),
     ("So\n\\boxed{18, 9}", "format", "stands among others"),
     ("#### y\nThat is $18$", "format", "the last line says 18"),
     ("9 * 2 = 19\n#### 19", "logic", "9 * 2 = 19, but it is 18"),
     ("9 eggs * $2/egg = $19\n#### 19", "logic", "but it is 18"),
     ("\\frac{27}{3} = 8\n\\boxed{8}", "logic", "but it is 9"),
     ("9 * 2 = 18, minus 1 is 17\n#### 17", "knowledge", "gave '17' for '18'")],
)  # fmt: skip
def test_each_rule_and_its_evidence(text, kind, evidence):
    found = item(text)
    assert (found["error"], evidence in found["evidence"]) == (kind, True), found["evidence"]


def test_a_cut_off_answer_is_format_unless_it_was_complete():
    assert item("9 * 2 = 19, so", truncated=True)["error"] == "format"
    assert item("9 * 2 = 19\n#### 19\nNow", truncated=True)["error"] == "logic"


def test_a_right_answer_has_no_error():
    assert grading.classify_error(item("9 * 2 = 19, no, 18\n#### 18"), is_code=False) is None


@pytest.mark.parametrize(
    "text",
    ["5x + 3 = 18", "2 hours + 30 minutes = 150 minutes", "2 hours * 60 minutes/hour = 120 minutes", "10 / 3 = 3.33",
     "3 apples + 4 apples = 7 apples", "$5/hour * 8 hours = $40"],
)  # fmt: skip
def test_true_steps_and_algebra_are_no_false_steps(text):
    assert grading.false_step(text) is None


def test_right_steps_before_a_wrong_answer_are_no_logic(right_steps):
    kinds = Counter(
        item(f"{steps}\n#### 19")["error"] for steps in right_steps if "####" not in steps and "```" not in steps
    )
    assert not kinds["logic"] and kinds["knowledge"] > 400, kinds


def test_the_first_false_step_is_shown():
    assert grading.false_step("1 + 1 = 2. 2 + 2 = 5. 3 + 3 = 7.") == "2 + 2 = 5, but it is 4"


@pytest.fixture(scope="module")
def sorted_cases():
    """(kind by rule, label by reading) of each labelled answer; programs need a sandbox to be graded."""
    cases = [case for case in LABELLED if case["data_source"] != "mbpp" or shutil.which("bwrap")]
    return [(item(c["answer"], c["gold"], c["data_source"], c["truncated"])["error"], c["label"]) for c in cases]


def test_the_labelled_sample_is_large_and_has_every_kind():
    labels = Counter(case["label"] for case in LABELLED)
    assert len(LABELLED) >= 100 and set(labels) == set(ERROR_KINDS)
    assert min(labels[kind] for kind in ("format", "logic", "knowledge")) >= 25


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_precision_of_the_kinds(kind, sorted_cases, record_property):
    labels = [label for found, label in sorted_cases if found == kind]
    precision = labels.count(kind) / len(labels)
    record_property("precision", f"{kind}: {labels.count(kind)} of {len(labels)}")
    print(f"{kind}: {labels.count(kind)} of {len(labels)} = {precision:.2f}")
    assert precision >= FLOOR[kind]
