"""The order in which questions are answered: every first part is a stratified sample, the same for every model."""

from collections import Counter

import pytest

from posttrain_verl.evaluate import job
from posttrain_verl.evaluate.job import Question
from posttrain_verl.terminal.problem import InputError


def questions(facts):
    return [
        Question(f"set/{n}", [{"role": "user", "content": "?"}], "math/x", "1", fact) for n, fact in enumerate(facts)
    ]


LEVELS = questions([{"level": 1 + (n % 10 >= 5) + (n % 10 >= 8)} for n in range(1000)])  # 500, 300, 200


@pytest.mark.parametrize("rows", [10, 57, 200, 999])
def test_every_first_part_keeps_the_shares(rows):
    groups = job.assign_strata(LEVELS, "level")
    drawn = Counter(groups[place] for place in job.stratified_order(LEVELS, groups)[:rows])
    for level, share in (("1", 0.5), ("2", 0.3), ("3", 0.2)):
        assert abs(drawn[level] - share * rows) <= 1


def test_the_order_is_random_and_follows_from_the_ids_alone():
    groups = job.assign_strata(LEVELS, "level")
    order = job.stratified_order(LEVELS, groups)
    assert sorted(order) == list(range(1000)) and order == job.stratified_order(LEVELS, groups)
    first = [place for place in order if groups[place] == "1"][:100]
    assert 350 < sum(first) / 100 < 650, "not the first rows of a stratum"
    turned = LEVELS[::-1]
    names = [turned[place].id for place in job.stratified_order(turned, groups[::-1])]
    assert names == [LEVELS[place].id for place in order]


def test_the_column_is_the_one_asked_for_or_the_first_that_tells_questions_apart():
    assert job.choose_column(LEVELS, None) == "level"
    assert (
        job.choose_column(questions([{"source": "a", "difficulty": 1.0}, {"source": "b", "difficulty": 1.0}]), None)
        == "source"
    )
    assert job.choose_column(questions([{"source": "a"}] * 3), None) is None
    with pytest.raises(InputError, match=r"stratify=topic.*\n.*there are: level, data_source"):
        job.choose_column(LEVELS, "topic")


def test_a_number_with_many_values_is_cut_into_fifths():
    many = questions([{"difficulty": float(n)} for n in range(100)])
    assert Counter(job.assign_strata(many, "difficulty")) == {str(n): 20 for n in range(5)}
    few = questions([{"difficulty": n / 2} for n in (1, 2, 2)])
    assert job.assign_strata(few, "difficulty") == ["0.5", "1", "1"]
