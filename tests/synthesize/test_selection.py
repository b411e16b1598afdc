"""What is selected of graded answers: solutions that differ, pairs that length does not tell apart, pass rates."""

import random

import pytest
from scipy.stats import binomtest, ttest_1samp

from posttrain_verl.synthesize import selection
from posttrain_verl.synthesize.selection import Graded, Lengths, Pair, Rules


def answer(text: str, sample: int = 0, right: bool | None = True, **more) -> Graded:
    return Graded("q", sample, text, more.pop("tokens", len(text.split())), right, **more)


APPLES = "First add 3 and 4 to get 7 apples, then double it, since there are two of each. #### 14"
ALIKE = "First add 3 and 4 to get 7 apples, then double it, since there are two of each! #### 14"
OTHER = "Twice 3 is 6, twice 4 is 8, and 6 + 8 = 14. #### 14"
THIRD = "Each pair has seven, so two of these have fourteen apples in all. #### 14"


def texts(answers) -> list[str]:
    return [each.text for each in answers]


def test_near_duplicates_count_once_and_the_rest_are_kept():
    right = [answer(text, number) for number, text in enumerate((APPLES, ALIKE, OTHER, APPLES, THIRD))]
    chosen, left_out = selection.choose_solutions(right, Rules(keep=4))
    assert set(texts(chosen)) == {APPLES, OTHER, THIRD}
    assert left_out == {"near_duplicate": 2}
    assert len(selection.choose_solutions(right, Rules(keep=8, near_duplicate=0))[0]) == 5


def test_signs_tell_two_solutions_apart():
    assert selection.similarity(selection.shingles("3+4=7"), selection.shingles("3*4=12")) < 0.5


def test_only_right_answers_that_are_whole_and_without_a_flaw_are_solutions():
    given = [answer("a b c d", 0, right=False), answer("b c d e", 1, right=None), answer("c d e f", 2, cut_off=True),
             answer("d e f g", 3, flaw="false_step"), answer("e f g h", 4)]  # fmt: skip
    chosen, left_out = selection.choose_solutions(given, Rules())
    assert texts(chosen) == ["e f g h"]
    assert left_out == {"cut_off": 1, "false_step": 1}


def test_the_choice_is_the_shortest_or_random_or_most_different():
    given = [answer(APPLES, 0, tokens=30), answer(OTHER, 1, tokens=20), answer(THIRD, 2, tokens=40)]
    assert texts(selection.choose_solutions(given, Rules(keep=2, choice="shortest"))[0]) == [OTHER, APPLES]
    drawn = {
        tuple(texts(selection.choose_solutions(given, Rules(keep=1, choice="random", seed=seed))[0]))
        for seed in range(20)
    }
    assert len(drawn) == 3
    close = "Twice 3 is 6, twice 4 is 8, and so 6 plus 8 are 14. #### 14"
    given = [answer(OTHER, 0, tokens=20), answer(close, 1, tokens=21), answer(THIRD, 2, tokens=40)]
    chosen, left_out = selection.choose_solutions(given, Rules(keep=2, choice="different"))
    assert texts(chosen) == [OTHER, THIRD] and left_out == {"beyond_keep": 1}


def test_the_same_answers_in_another_order_give_the_same_choice():
    given = [answer(f"{word} " * 4 + "and so on", number, tokens=9) for number, word in enumerate("abcdefgh")]
    for choice in ("shortest", "random", "different"):
        rules = Rules(keep=3, choice=choice)
        expected = selection.choose_solutions(given, rules)
        assert selection.choose_solutions(given[::-1], rules) == expected


def pool(count: int, gap: float, seed: int = 0) -> dict[str, list[Graded]]:
    """Questions of which wrong answers are `gap` tokens longer than right ones on average."""
    draw = random.Random(seed)
    found = {}
    for number in range(count):
        found[f"q{number}"] = [
            Graded(f"q{number}", sample, f"words {number} {sample} {draw.random()} {draw.random()}",
                   max(1, int(draw.gauss(100 + (0 if sample % 2 else gap), 30))), sample % 2 == 1)
            for sample in range(8)
        ]  # fmt: skip
    return found


@pytest.mark.parametrize("gap", [0, 20, 60, -40])
@pytest.mark.parametrize("most", [1, 3])
def test_length_does_not_tell_the_sides_of_pairs_apart(gap, most):
    pairs, _ = selection.choose_pairs(pool(300, gap), Rules(pairs=most))
    gaps = [pair.gap for pair in pairs]
    assert len(pairs) >= 200, "few are lost"
    unequal = [each for each in gaps if each]
    assert binomtest(sum(each > 0 for each in unequal), len(unequal)).pvalue > 0.04
    assert ttest_1samp(gaps, 0).pvalue > 0.04
    plain, _ = selection.choose_pairs(pool(300, gap), Rules(pairs=most, match_lengths=False))
    if gap:
        assert abs(Lengths.of(plain).difference) > 10 > 5 > abs(Lengths.of(pairs).difference)


def groups_of(count: int, right: int, wrong: int) -> dict[str, list[Graded]]:
    """Questions with a right and a wrong answer of so many tokens."""
    return {
        f"q{n}": [Graded(f"q{n}", 0, f"yes {n}", right, True), Graded(f"q{n}", 1, f"no {n}", wrong, False)]
        for n in range(count)
    }


def test_pairs_that_length_alone_tells_apart_are_left_out_and_counted():
    pairs, left_out = selection.choose_pairs(groups_of(100, 10, 90), Rules())
    assert len(pairs) + left_out["told_by_length"] == 100 and len(pairs) < 5
    assert len(selection.choose_pairs(groups_of(100, 10, 90), Rules(match_lengths=False))[0]) == 100


def test_equal_lengths_lose_no_pair():
    pairs, left_out = selection.choose_pairs(groups_of(50, 29, 29), Rules())
    assert len(pairs) == 50 and not left_out
    assert Lengths.of(pairs) == Lengths(50, 29.0, 29.0, 0.0, 0, 0)


@pytest.mark.parametrize(
    ("wrong", "rules", "found"),
    [
        ({"right": None}, {}, 0),
        ({"right": None}, {"reject_undecided": True}, 1),
        ({"right": False, "cut_off": True}, {}, 0),
        ({"right": False, "cut_off": True}, {"reject_cut_off": True}, 1),
        ({"right": False}, {}, 1),
    ],
)
def test_what_a_pair_may_reject(wrong, rules, found):
    groups = {"q": [answer("the right one", 0), answer("quite another text", 1, **wrong)]}
    assert len(selection.choose_pairs(groups, Rules(**rules))[0]) == found


def test_a_pair_neither_chooses_what_is_flawed_nor_rejects_what_is_empty():
    groups = {"q": [answer("right with a flaw", 0, flaw="false_step"), answer("wrong one here", 1, right=False)],
              "r": [answer("right one", 2), answer(" ", 3, right=False)]}  # fmt: skip
    pairs, left_out = selection.choose_pairs(groups, Rules())
    assert not pairs and left_out == {"no_right_answer": 1, "no_wrong_answer": 1}


def test_an_answer_stands_in_one_pair_and_each_question_gets_its_first_before_any_second():
    groups = {name: [Graded(name, n, f"{name} {n} {'x' * n}", 10, n % 2 == 0) for n in range(6)] for name in "abc"}
    pairs, _ = selection.choose_pairs(groups, Rules(pairs=2, near_duplicate=0))
    assert [pair.chosen.id for pair in pairs] == ["a", "a", "b", "b", "c", "c"]
    used = [(each.id, each.sample) for pair in pairs for each in (pair.chosen, pair.rejected)]
    assert len(used) == len(set(used))


def test_pass_rates_have_their_interval_and_leave_out_what_has_no_verdict():
    answers = [answer(str(n), n, right=n < 3 if n < 8 else None) for n in range(9)]
    rate = selection.pass_rate("q", answers)
    assert (rate.n, rate.right, rate.undecided, rate.rate) == (8, 3, 1, 0.375)
    assert (rate.low, rate.high) == (pytest.approx(0.1368, abs=1e-4), pytest.approx(0.6943, abs=1e-4)), "Wilson's"
    assert selection.pass_rate("q", [answer("x", right=None)]).rate is None


def test_about_that_share_of_questions_is_for_validation():
    held = [selection.is_validation(f"q{number}", 0.1, 3) for number in range(5000)]
    assert 400 < sum(held) < 600


def test_a_single_pair_is_kept_whatever_its_lengths():
    pair = Pair(answer("a", tokens=5), answer("b", 1, right=False, tokens=50))
    assert selection.balance_lengths([pair]) == [pair]
