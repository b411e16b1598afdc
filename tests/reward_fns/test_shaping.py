"""Each shaping part against its source's formula."""

import pytest

import reward_fns
from reward_fns import grades
from reward_fns.grades import Grade


def test_format_gates_and_never_adds():
    assert grades.format_gate(1.0, 1.0) == 1.0
    assert grades.format_gate(1.0, 0.0) == 0.0
    assert grades.format_gate(0.0, 1.0) == 0.0


@pytest.mark.parametrize(("tokens", "expected"), [(0, 0), (12, 0), (14, -0.5), (16, -1), (1000, -1)])
def test_soft_overlong_is_daposs_equation_13(tokens, expected):
    assert grades.soft_overlong(tokens, max_tokens=16, buffer_tokens=4) == expected


@pytest.mark.parametrize("buffer", [0, -1, 17])
def test_soft_overlong_refuses_an_impossible_buffer(buffer):
    with pytest.raises(ValueError, match="buffer_tokens"):
        grades.soft_overlong(1, max_tokens=16, buffer_tokens=buffer)


def test_repetition_is_zero_for_distinct_words_and_grows_with_a_loop():
    assert grades.repetition_penalty(" ".join(map(str, range(100))), ngram=3) == 0.0
    assert grades.repetition_penalty("a b c " * 50, ngram=3) == pytest.approx(3 / 148 - 1)
    assert grades.repetition_penalty("short", ngram=3) == 0.0


def test_language_consistency_is_the_share_of_letters_in_the_script():
    assert grades.language_consistency("plain English, 1 + 1 = 2") == 1.0
    assert grades.language_consistency("ab\u4f60\u597d") == 0.5
    assert grades.language_consistency("\u4f60\u597d", language="zh") == 1.0
    assert grades.language_consistency("1 + 1") == 1.0
    with pytest.raises(ValueError, match="language"):
        grades.language_consistency("a", language="xx")


def test_parts_are_logged_apart_and_acc_stays_the_verifiers():
    plan = {"format_gate": {}, "repetition": {"weight": 0.5, "ngram": 1}, "language": {"weight": 0.1}}
    shaped = grades.shape_grade(Grade(score=1.0, acc=1.0, format=0.0, answered=1.0), "a a a a", plan)
    assert shaped["acc"] == 1.0
    assert (shaped["shape_repetition"], shaped["shape_language"]) == (-0.75, 1.0)
    assert shaped["score"] == pytest.approx(0.0 + 0.5 * -0.75 + 0.1)


def test_unknown_part_is_an_error():
    with pytest.raises(ValueError, match="unknown shaping"):
        reward_fns.grade("openai/gsm8k", "#### 1", "1", shaping={"lenght": {}})


def test_shaping_reaches_the_entry():
    grade = reward_fns.grade("openai/gsm8k", "The answer is 1.", "1", shaping={"format_gate": {}})
    assert (grade["score"], grade["acc"], grade["format"]) == (0.0, 1.0, 0.0)
