"""Filters on single texts: what each finds, and what it must leave alone."""

import pytest

from data_prep.filters import arithmetic, gold, latex, text


@pytest.mark.parametrize(
    "broken",
    [
        r"Find $\frac{1}{2$.",
        r"\begin{cases} x \\ y",
        r"Then \left( x + 1 ) = 2",
        r"so $\alpha = 3",
        r"the value \frac{1}",
        r"\[ x^2 + \sqrt{2}",
        r"so $\frac{3}$ of it",
        r"now $\fra{1}{2}$",
        r"is $\sqrt$ of",
        r"a \begin x \end{cases}",
        r"Let \(a = 3",
        r"$\frac{}{2}$",
        "the ratio \x0crac{1}{2}",
        "5 \text{ cm}",
        "2 \times 3",
        r"here 3 \tim 4",
        r"we get $$\pi r^2$ here",
        r"\end{align} x \alpha",
        r"now }\alpha{",
    ],
)
def test_broken_latex_is_found(broken):
    assert latex.find_broken_latex(broken)


@pytest.mark.parametrize(
    "good",
    [
        "Weng earns $12 an hour and spent $3.50 on lunch.",
        r"It costs \$5, and $\frac{1}{2}$ of it is \$2.50.",
        r"The set $\{1, 2\}$ and $\left\{ x \right.$ stay.",
        r"\begin{cases} x \\[2pt] y \end{cases}",
        r"so $r = \pi$",
        r"\(a\). \[\boxed{12}\]",
        r"$\left\{\begin{array}{l} x=3 \\ y=1\end{array}\right.$",
        r"$\frac12 + \frac\pi2 + \sqrt2$",
        r"It pays $51 * 30 = $1,530 and so $\boxed{1530}$.",
        r"Each pays $8, so $n = 128 \div 8$. Thus $5$ and $12 cm$.",
        r"Write it in \boxed{}.",
        r"$\binom n k$ and $\frac{\sqrt 3}{\sqrt2}$",
        r"$x \in \mathbb R$, $\vec v \le 3$",
        r"She pays $20 for $\frac{3}{4}$ of them.",
        "Plain words.",
        r"Hence $$\frac{a}{b} = \sqrt{2}.$$",
    ],
)
def test_good_latex_and_money_are_left_alone(good):
    assert latex.find_broken_latex(good) is None


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
        r"$\frac{3}{4} + \frac{1}{6} = \frac{11}{10}$",
        r"$10 \cdot (25 + 28) = 10 \cdot 62 = 530$",
        "10 / 7 \u2248 1.83 liters",
        "f(2) &= 3 \\cdot 2 + 4 \\\\\n&= 7 + 4",
        "15% of $1,530 = $143",
        r"30\% \cdot 920 = 278",
        "2 1/2 * 26 = 75",
        "46(12) = 554",
        "3 boxes * 12 eggs per box = 37 eggs",
        "89 km/h * 7 hours = 723 km",
        r"74 \text{ cm} \times 67 \text{ cm} = 4959 \text{ cm}^2",
        r"$88^2 + 165^2 = 34979$",
        r"180^\circ - 42^\circ = 137^\circ",
        "6 \u00d7 10^3 = 6010 and 3 + 3 = 6",
        r"$\binom{9}{2} = 35$",
        "5! - 20 = 90",
        r"$\frac{7!}{5!} = 52$",
        "12 feet * 3 = 35 feet",
        "45 minutes * 4 = 181 minutes",
        "5\u00b2 + 12\u00b2 = 168",
        "1/4 of 60 = 16",
        "1/4 = 35%",
        "2-1/2 cups * 2 = 6 cups",
        "There are a total of 50 + 30 = 83 pieces.",
        "The 7 pills cost 7 * 5 = 25 dollars.",
        "100 - 75 = 21, so 21 of them don't have one.",
        r"24 \div \frac{1}{3} = 71",
        "9 eggs * $2/egg = $19",
        "17 x $8.09 = $138.53",
        r"1742 \times 30 = 52{,}261",
        "1,000 plus 5 equals 1,006",
    ],
)
def test_false_steps_are_found(step):
    assert arithmetic.find_false_step(step)


@pytest.mark.parametrize(
    "step",
    [
        "12*7=84",
        "10/3 = 3.33",
        "2/3 = 0.67",
        "There are 60 students x 2/3 = 40 students.",
        "8 x 1 1/2 = 12 rolls",
        "x + 4 + 2 = 8",
        "7 + 6 = 1 (mod 12)",
        "101_2 + 1 = 110_2",
        "5+5=10, 3*2=6",
        "2^3*2=16",
        "$80 000 x 20/100 = $16 000",
        "3/0 = 5",
        "17 - 5 = 4 * 3",
        r"1742 \times 30 = 52{,}260",
        "2 feet + 6 inches = 30 inches",
        "45 minutes * 4 = 3 hours",
        "15 + 20 = 35 - 5 = 30",
        "1/4 = 10 miles",
        "20% = 10 miles",
        "every 1% = 184/92",
        "half of 30 + 2 = 17",
        "3 dozen + 2 = 38",
        r"$1+2+\cdots+10 = \frac{10 \cdot 11}{2} = 55$",
        r"$\frac{-4 \pm 6}{2} = 1$",
        r"$|-3| + 4 = 7$",
        "9:30 + 2:15 = 11:45",
        "a - 5 * 2 = 8",
        r"$\sqrt{9+16} = \sqrt{25} = 5$",
        r"$(-2)^3 = -8$",
        "Week 1 + Week 2 = 35 + 35",
        "- 5 + 3 = 8 apples",
        "Is 3 * 4 = 13?",
        "50 + 20% = 60",
        "5 because -18 / -2 = 9",
        "10/3 = 3.33 = 20/6",
        "He walks 20 + 10 steps to the 29 + 24 others = 83",
    ],
)
def test_true_and_unclear_steps_are_left_alone(step):
    assert arithmetic.find_false_step(step) is None


def test_a_line_of_other_arithmetic_is_left_out_and_no_other_line_is_cut():
    assert arithmetic.find_false_step("R 1\nOR 12*3 = 37")
    assert arithmetic.find_false_step("R 1\nOR 12*3 = 36") is None
    assert arithmetic.find_false_step("7 + 6 = 1 (mod 12)\n12*3 = 36") is None


def test_the_marks_of_a_list_are_no_signs():
    assert arithmetic.find_false_step("1) 5 + 3 = 8\n2) 8 * 2 = 16\n- 5 + 3 = 8\n* 4 - 1 = 3") is None


def test_column_sums_have_no_flaw():
    from data_prep.sources.generated import column_steps

    for left, sign, right in ((47, "+", 85), (85, "-", 47), (100, "-", 1), (99, "+", 1), (50, "-", 50)):
        steps, _ = column_steps(left, sign, right)
        assert arithmetic.find_false_step("\n".join(steps)) is None
        digits = int(
            "".join(
                step.rpartition("=")[2] if n == len(steps) - 1 else step[-1]
                for n, step in reversed(list(enumerate(steps)))
            )
        )
        assert digits == (left + right if sign == "+" else left - right)


def test_loops_are_found_and_tables_are_not():
    assert text.find_repetition("Start. " + "we check the sum again and " * 6 + "end.")
    assert text.find_repetition("abcdefghijklmn" * 8)
    assert text.find_repetition("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20") is None
    assert text.find_repetition("0 0 0 0 0 0 0 0 0 0 0 0") is None
    assert text.find_repetition("") is None
    assert (
        text.find_repetition("so " + "wait " * 12)
        and text.find_repetition("we " + "and then " * 8)
        and text.find_repetition("ha" * 40)
    )
    paragraph = "Now we look at the sum of the two numbers that are given and write it down with care. "
    assert text.find_repetition(paragraph * 3) and text.find_repetition(paragraph * 2) is None
    lines = [f"Step {n}: we check the sum of the digits again." for n in range(9)]
    assert text.find_repetition("\n".join(lines))
    assert text.find_repetition("$" + " + ".join(["1"] * 20) + r" = " + r" \cdot ".join(["2"] * 12) + "$") is None
    assert text.find_repetition("|---|" + "-" * 80 + " 10" + "0" * 50) is None
    chain = "3^9 mod 13 = (3^3)^3 mod 13 = 27^3 mod 13 = 1^3 mod 13 = 1 mod 13 = 1"
    assert text.find_repetition(chain) is None and text.find_repetition(" mod 13 = 1" * 8)


def test_cut_texts():
    assert text.cut_solution("We have that the sum of the")
    assert text.cut_solution("<think> so")
    assert text.cut_solution("```python\nprint(1)")
    assert text.cut_solution("It is 5.\n#### 5") is None
    assert text.cut_solution("7+5=12\n4+8+1=13\n#### 132") is None
    assert text.cut_question("47+85=") is None
    assert text.cut_question("How many apples are left of the")
    assert text.cut_question("Ann has 5 pens. She buys 3 more. How many pens has An")
    assert text.cut_question("The stadium sold 73,426 tickets onli")
    assert text.cut_question("Find the sum of the first 10 primes") is None
    assert text.cut_question("Alice has 3 apples\nBob has 4 apples\nHow many do they have together") is None
    assert text.cut_solution("The gross pay is 680.\nThe tax is 5%") and text.cut_solution(
        "We add 5 and 6 and then we get..."
    )
    assert text.cut_solution("One weekend makes 120 pages\nThat makes 120*9 = 1080 pages") is None
    assert text.cut_solution("The total is four.\n\n**Answer: 4**") is None


@pytest.mark.parametrize(
    "question",
    [
        "The product of 7 and 8 equals",
        "If $x + 4 = 9$, then the value of $2x$ is",
        "A line has slope 2. The number of its points with $x = 3$ is equal to",
        "A tank is 3 m high and 2 m wide. Give its length to the nearest cm",
        "A car goes 40 miles an hour. Find its speed in km/h",
    ],
)
def test_questions_to_be_completed_and_units_at_the_end_are_not_cut(question):
    assert text.cut_question(question) is None


@pytest.mark.parametrize(
    "end", ["27 cm^3", "36 square feet", "75 degrees", "90 km/h", "14 dollars", "8 m\u00b2", "5 hours"]
)
def test_a_solution_may_end_in_units(end):
    assert text.cut_solution(f"We multiply the sides.\nSo the result is {end}") is None
    assert text.cut_solution(f"We multiply the sides.\nSo the result is {end} of the")


@pytest.mark.parametrize(
    "question", ["Ann has 5 pens. Her brother is", "Ann has 5 pens. She buys 3 in", "He has 9 and the other equal"]
)
def test_questions_that_stop_at_such_words_are_cut(question):
    assert text.cut_question(question)


def test_gold_is_read_as_its_reward_reads_it():
    assert gold.explain_unreadable("72", "openai/gsm8k", "math") is None
    assert gold.explain_unreadable("\\frac{1}{2}", "math/own", "math") is None
    assert gold.explain_unreadable("\\frac{1}{", "math/own", "math")
    assert gold.explain_unreadable('{"test_list": ["assert f(1) == 2"]}', "mbpp", "code") is None
    assert gold.explain_unreadable("{}", "mbpp", "code")
    nothing = '{"functional": "def helper(a, b):\\n    assert f(a) == b"}'
    assert "no assertion" in str(gold.explain_unreadable(nothing, "mbpp", "code"))
    mocked = '{"functional": "from unittest.mock import patch\\nassert f(1) == 2"}'
    assert "mock objects" in str(gold.explain_unreadable(mocked, "mbpp", "code"))
    for nothing in ("", "$$", "\\boxed{}", "#### "):
        assert gold.is_empty(nothing)
    for bad in (
        "N/A",
        "3 +",
        "1/0",
        "[1, 2",
        "((3",
        "\\boxed{",
        "1,2,",
        "3..5",
        "see above",
        "12 apples and also 5 oranges or so",
        r"$5 \frac{1}{4 days",
    ):
        assert gold.explain_unreadable(bad, "math/own", "math"), bad
    for good in (
        r"$5 \frac{1}{4}$ days",
        "45 $m^{2}$",
        r"9 and $7.5 \mathrm{~kg}$",
        r"$(-\infty, 1) \cup\{4\}$.",
        r"\{\}",
        r"\varnothing",
        r"45^{\circ}",
        r"18 cm$^2$",
        r"$\left\{\begin{array}{l}x=4 \\ y=7\end{array}\right.$",
        "[1, 2)",
        "(3, 4)",
        "\\text{no real solutions}",
        "x^2 - 1",
        "-\\frac{1}{2}",
        "B) 12",
        "\\{1, 2\\}",
        "1/10",
    ):
        assert gold.explain_unreadable(good, "math/own", "math") is None, good
    assert gold.find_disagreement("So it is 5.\n#### 5", "6", "math/own")
    assert gold.find_disagreement("Hence $\\boxed{\\frac{1}{2}}$.", "0.5", "math/own") is None
    assert gold.no_final_answer("Nothing is said here", "5", "math/own")
    assert gold.no_final_answer("The answer is 5.", "6", "math/own") is None, "another answer is one, too"
    assert gold.no_final_answer("This leaves 5 pens.", "5", "math/own") is None, "the reward finds it"
    assert gold.find_disagreement("This leaves 5 pens of 9.", "5", "math/own") is None, "nothing is marked as final"


@pytest.mark.parametrize(
    "foreign",
    [
        "Calcula el \u00e1rea de un rect\u00e1ngulo de base 8 y altura 5.",
        "Berechne den Fl\u00e4cheninhalt eines Rechtecks mit den Seiten 2 und 3.",
        "Calculer la somme de 5 et de 6.",
        "Budi membeli 4 buku dan memberikan 2 buku kepada adiknya. Berapa sisa buku Budi?",
        "\u041e\u0442\u0432\u0435\u0442 \u0440\u0430\u0432\u0435\u043d 5",
        "Mkulima ana kondoo 9 na anauza 4. Je, amebaki na kondoo wangapi?",
    ],
)
def test_other_languages_are_found(foreign):
    assert text.other_language(foreign)


@pytest.mark.parametrize(
    "english",
    [
        "Se\u00f1ora D\u00edaz buys 3 pi\u00f1atas and a cr\u00e8me br\u00fbl\u00e9e in El Paso. What does a third of it cost?",
        "Factor $x^2-9$.",
        r"$\alpha + \beta = \gamma$, $\sin\theta = 1$",
        "A die shows 3.",
        "apples 5, oranges 7, fruits 12",
    ],
)
def test_english_with_foreign_names_is_left_alone(english):
    assert text.other_language(english) is None


@pytest.mark.parametrize(
    "pointing",
    [
        "In the figure, the shaded part is 3.",
        "The pie chart shows the costs.",
        "Using the graph, find $f(2)$.",
        "as shown, at last?",
        "Figure 2 is of use.",
        "[image] What is it?",
        "Look at the picture on the right.",
        "The graph of $f$ is shown.",
        "In triangle ABC shown below, AB = 5 and BC = 6.",
        "The grid shown below has 12 shaded squares. How many are not shaded?",
        "Some numbers are shown below. What is their sum?",
        "Using the following graph, find the number of cars sold in May.",
        "The number line shown has points A and B.",
        "A pie chart is used. In the figure below, which part is red?",
        "A chart of sales is given. The chart shows four months. Which is best?",
        "The bar chart shows the sales of 3 shops. Which shop sold the most?",
    ],
)
def test_questions_about_pictures_are_found(pointing):
    assert text.needs_image(pointing)


@pytest.mark.parametrize(
    "told",
    [
        "How many animals are in the picture she drew?",
        "The towns are 7 inches apart on the map.",
        "The graph of $y=x$ is shifted.",
        "What is the image of $(3,4)$ under the reflection?",
        "A figure skating club has 24 members.",
        "What is the area of the figure?",
        "As shown in class, the sum is 180.",
        "The following table gives prices.",
        "How many photos fit in the album?",
        "All multiples of 3 are taken from the number line. What is left?",
        "The signs of 2-4+6-8+10 alternate, as shown. What is the sum of 40 terms?",
        "Four rows of a pyramid of numbers are shown below.\n2\n4 6\n8 10 12\n14 16 18 20\nWhat is the sum of row 9?",
        "The prices are shown below.\n\n| pen | 2 |\n|---|---|\n| book | 5 |\n\nWhat do 3 books cost?",
        "Consider the rule shown below: g(x) = 3x - 1. What is g(4)?",
        "The rules are shown below.\n1. Roll a die.\n2. Double it.\nWhat is the mean?",
        "Ben makes a chart of his points. The chart shows a mean of 12. How many points are 8 games?",
        "The chart shows the heights: 140, 152, 149 and 163. What is their mean?",
        "Using the chart below, find the cost of both.\n| pen | 3 |\n| cup | 4 |",
        "The following graph has 6 vertices, and each has 3 edges. How many edges has it?",
    ],
)
def test_pictures_of_the_story_are_left_alone(told):
    assert text.needs_image(told) is None
