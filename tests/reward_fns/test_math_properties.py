"""What must hold for every number, not only for those of the case table."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

import reward_fns
from reward_fns.math import notation
from reward_fns.math.extract import final_answer

integers = st.integers(-(10**9), 10**9)
# Prose that makes no claim about an answer and holds no number, box or marker of its own.
words = ["we", "add", "both", "sides", "and", "then", "see", "how", "many", "remain", "so", "that", "it", "follows"]
prose = st.lists(st.sampled_from(words), max_size=30)


def acc(response, gold, **options):
    return reward_fns.grade("math", response, str(gold), **options)["acc"]


def spellings(n):
    return (
        str(n),
        f"{n:,}",
        f"{n}.0",
        f"${n}$",
        f"{n}.",
        f"{n} apples",
        rf"\text{{{n}}}",
        rf"\frac{{{n}}}{{1}}",
        f"+{n}" if n > 0 else str(n),
    )


@given(integers)
def test_spellings_of_an_integer_are_right(n):
    assert all(acc(rf"\boxed{{{spelling}}}", n) for spelling in spellings(n))


@given(integers, integers)
def test_a_wrong_number_never_passes(n, other):
    if n != other:
        for response in (
            *(rf"\boxed{{{s}}}" for s in spellings(other)),
            f"#### {other}",
            f"The answer is {other}.",
            f"{other}",
        ):
            assert acc(response, n) == 0


@given(integers, prose, prose)
def test_prose_around_an_answer_keeps_the_verdict(n, before, after):
    for answer in (rf"\boxed{{{n}}}", f"#### {n}\n", f"The answer is {n}."):
        assert acc(" ".join(before) + " " + answer + " " + " ".join(after), n) == 1
        assert acc(" ".join(before) + " " + answer + " " + " ".join(after), n + 1) == 0


@given(st.lists(integers, min_size=2, max_size=6, unique=True), st.data())
def test_a_list_of_candidates_never_passes(candidates, data):
    gold = data.draw(st.sampled_from(candidates))
    for response in (
        " or ".join(rf"\boxed{{{c}}}" for c in candidates),
        "\n".join(f"#### {c}" for c in candidates),
        f"The answer is {' or '.join(map(str, candidates))}.",
        f"It could be {', '.join(map(str, candidates))}",
        rf"\boxed{{{', '.join(map(str, candidates))}}}",
    ):
        assert acc(response, gold) == 0


@given(st.fractions(-1000, 1000, max_denominator=999))
def test_fractions_equal_their_spellings(q):
    n, d = q.numerator, q.denominator
    for text in (f"{n}/{d}", rf"\frac{{{n}}}{{{d}}}", rf"\dfrac{{{2 * n}}}{{{2 * d}}}"):
        number = notation.read_number(text)
        assert number is not None and number.value == q


@given(st.decimals(-(10**6), 10**6, places=4), st.decimals(-(10**6), 10**6, places=4))
def test_decimals_are_equal_only_when_they_are(a, b):
    left, right = notation.read_number(str(a)), notation.read_number(str(b))
    assert left is not None and right is not None
    assert notation.equal_numbers(left, right) == (Fraction(a) == Fraction(b))


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=4, unique=True), st.randoms())
def test_reordering_a_set_keeps_the_verdict(elements, random):
    shuffled = elements[:]
    random.shuffle(shuffled)
    gold = rf"\{{{','.join(map(str, elements))}\}}"
    assert acc(rf"\boxed{{\{{{','.join(map(str, shuffled))}\}}}}", gold) == 1


@given(st.text(max_size=400))
def test_any_text_is_read_without_error(text):
    for mode in ("strict", "flexible"):
        assert final_answer(text, mode).where in ("", "boxed", "hash", "phrase", "last")


@given(st.text(alphabet="\\boxed{}#$0123456789.,-/ \n(answeris)", max_size=300))
def test_any_near_answer_gives_a_full_grade(text):
    grade = reward_fns.grade("openai/gsm8k", text, "7.5")
    assert tuple(grade) == reward_fns.KEYS
    assert grade["acc"] in (0.0, 1.0) and grade["verifier_error"] == 0.0
