"""Filters on single texts: what each finds, and what it must leave alone."""

import pytest

from data_prep.filters import arithmetic, gold, latex, text


@pytest.mark.parametrize(
    "broken",
    [
        r"Find $\frac{1}{2$.", r"\begin{cases} x \\ y", r"Then \left( x + 1 ) = 2", r"so $\alpha = 3", r"the value \frac{1}",
        r"\[ x^2 + \sqrt{2}",
        "the ratio \x0crac{1}{2}", r"we get $$\pi r^2$ here", r"\end{align} x \alpha", r"now }\alpha{",
    ],
)  # fmt: skip
def test_broken_latex_is_found(broken):
    assert latex.flaw(broken)


@pytest.mark.parametrize(
    "good",
    [
        "Weng earns $12 an hour and spent $3.50 on lunch.", r"It costs \$5, and $\frac{1}{2}$ of it is \$2.50.",
        r"The set $\{1, 2\}$ and $\left\{ x \right.$ stay.", r"\begin{cases} x \\[2pt] y \end{cases}", r"so $r = \pi$",
        r"She pays $20 for $\frac{3}{4}$ of them.", "Plain words.", r"Hence $$\frac{a}{b} = \sqrt{2}.$$",
    ],
)  # fmt: skip
def test_good_latex_and_money_are_left_alone(good):
    assert latex.flaw(good) is None


@pytest.mark.parametrize(
    "step",
    [
        "12*7=74",
        "So 48/2 = 25 clips.",
        "<<5+5=11>>11",
        r"$3 \times 4 = 13$",
        "In all: 1,000 + 5 = 1,006.",
        "(2+3)*4=24",
        "10/3 = 4.5",
    ],
)
def test_false_steps_are_found(step):
    assert arithmetic.flaw(step)


@pytest.mark.parametrize(
    "step",
    [
        "12*7=84", "10/3 = 3.33", "2/3 = 0.67", "There are 60 students x 2/3 = 40 students.", "8 x 1 1/2 = 12 rolls",
        "x + 4 + 2 = 8", "7 + 6 = 1 (mod 12)", "101_2 + 1 = 110_2", "5+5=10, 3*2=6", "2^3*2=16", "$80 000 x 20/100 = $16 000",
        "3/0 = 5", "17 - 5 = 4 * 3",
    ],
)  # fmt: skip
def test_true_and_unclear_steps_are_left_alone(step):
    assert arithmetic.flaw(step) is None


def test_column_sums_have_no_flaw():
    from data_prep.sources.column_sums import column_steps

    for left, sign, right in ((47, "+", 85), (85, "-", 47), (100, "-", 1), (99, "+", 1), (50, "-", 50)):
        steps, _ = column_steps(left, sign, right)
        assert arithmetic.flaw("\n".join(steps)) is None
        digits = int(
            "".join(
                step.rpartition("=")[2] if n == len(steps) - 1 else step[-1]
                for n, step in reversed(list(enumerate(steps)))
            )
        )
        assert digits == (left + right if sign == "+" else left - right)


def test_loops_are_found_and_tables_are_not():
    assert text.repeats("Start. " + "we check the sum again and " * 6 + "end.")
    assert text.repeats("abcdefghijklmn" * 8)
    assert text.repeats("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20") is None
    assert text.repeats("0 0 0 0 0 0 0 0 0 0 0 0") is None
    assert text.repeats("") is None


def test_cut_texts():
    assert text.cut_solution("We have that the sum of the")
    assert text.cut_solution("<think> so")
    assert text.cut_solution("```python\nprint(1)")
    assert text.cut_solution("It is 5.\n#### 5") is None
    assert text.cut_solution("7+5=12\n4+8+1=13\n#### 132") is None
    assert text.cut_question("47+85=") is None
    assert text.cut_question("How many apples are left of the")


def test_gold_is_read_as_its_reward_reads_it():
    assert gold.unreadable("72", "openai/gsm8k", "math") is None
    assert gold.unreadable("\\frac{1}{2}", "math/own", "math") is None
    assert gold.unreadable("\\frac{1}{", "math/own", "math")
    assert gold.unreadable('{"test_list": ["assert f(1) == 2"]}', "mbpp", "code") is None
    assert gold.unreadable("{}", "mbpp", "code")
    assert gold.disagrees("So it is 5.\n#### 5", "6", "math/own")
    assert gold.disagrees("Hence $\\boxed{\\frac{1}{2}}$.", "0.5", "math/own") is None
    assert gold.no_final_answer("Nothing is said here")
    assert gold.no_final_answer("The answer is 5.") is None
