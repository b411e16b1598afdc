"""The reward of a rehearsal calls the recipe's, and spreads only what earned nothing."""

import asyncio

import pytest

from posttrain_verl.rehearse import reward

OWN = """
async def graded(data_source, solution_str, ground_truth, **_):
    right = float(solution_str == ground_truth)
    return {"score": right, "acc": right}

def number(data_source, solution_str, ground_truth, **_):
    return 0.0
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


def score(path, name, answer, gold):
    arguments = {"data_source": "s", "solution_str": answer, "ground_truth": gold}
    return asyncio.run(reward.compute_score(rehearsed={"path": path, "name": name}, **arguments))


def test_a_right_answer_keeps_its_score(own):
    assert score(own, "graded", "2", "2") == {"score": 1.0, "acc": 1.0}


def test_wrong_answers_differ_in_score_and_keep_their_parts(own):
    grades = [score(own, "graded", f"wrong {number}", "gold") for number in range(8)]
    assert all(grade["acc"] == 0 for grade in grades)
    assert len({grade["score"] for grade in grades}) > 4
    assert all(0 <= grade["score"] < reward.SPREAD for grade in grades)


def test_a_reward_that_returns_a_number(own):
    assert set(score(own, "number", "x", "gold")) == {"score", "acc"}


def test_one_question_in_four_gives_all_its_answers_the_same():
    same = [gold for gold in map(str, range(400)) if len({reward.spread_score(f"{n}", gold) for n in range(8)}) == 1]
    assert 60 < len(same) < 140
