"""Golds of many kinds: with one symbol changed they are wrong, and respelt they are right (real sets: benchmarks/verdicts.py)."""

import importlib.util
import random
from pathlib import Path

import pytest

import reward_fns
from reward_fns.math import spellings

HERE = Path(__file__).parent
GOLDS = (HERE / "golds.txt").read_text().splitlines()
spec = importlib.util.spec_from_file_location("verdicts", HERE.parents[1] / "benchmarks" / "verdicts.py")
verdicts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(verdicts)


@pytest.mark.parametrize("gold", GOLDS)
def test_a_changed_gold_is_wrong(gold):
    for seed in range(5):
        for kind, other in verdicts.changed(gold, random.Random(seed)):
            assert other == gold or not verdicts.right(rf"\boxed{{{other}}}", gold), (kind, other)


@pytest.mark.parametrize("gold", GOLDS)
def test_a_respelt_gold_is_right(gold):
    refused = [(kind, answer) for kind, answer in verdicts.styles(gold) if not verdicts.right(answer, gold)]
    assert refused == []
    assert spellings.unanswerable(gold) is None


@pytest.mark.parametrize(
    "gold",
    [r"-3 b^{4}+13 b^{3}-", r"\frac{1}{2", "a?b", r"\mho(a)+", r"x = \foo{3} + 2"],
)
def test_a_gold_that_is_not_understood_is_named(gold):
    assert "does not understand" in spellings.unanswerable(gold)


WORKING = (
    r"We expand the product and get $x^2 + 5x + 6 = 0$, so that $x_{1} = -2$ and $x_{2} = -3$. Next $\frac{F_{n + 2}}{F_n^{18}}$ "
    r"tends to $\phi^{2}$. With 4 boxes of 12 pens she has 4 * 12 = 48 pens, and \[ \int_0^{18} t^2 dt = 1944 \] holds"
)


@pytest.mark.parametrize("gold", ["2", "18", "4", "12", "1", "5", "6", "x^2", "n", "0", "19"])
def test_working_that_breaks_off_gives_no_answer(gold):
    for end in range(1, len(WORKING)):
        text = WORKING[:end]
        number = WORKING[end - 1 : end + 1].isdigit()  # a number that is cut in two cannot be told from a whole one
        if not number and not text.endswith((".", "$", "\\]")):  # there it might be whole
            assert not reward_fns.grade("math", text, gold)["acc"], text[-40:]


@pytest.mark.parametrize("unit", ["|x-15|", "so x = 15. ", "15 15 ", "= 15\n"])
def test_a_loop_gives_no_answer(unit):
    assert reward_fns.grade("math", "We compute. " + unit * 100, "15")["acc"] == 0


def test_a_row_whose_prompt_asks_for_a_mark_is_graded_strictly():
    import asyncio

    def score(info, **options):
        return asyncio.run(reward_fns.compute_score("math", "The answer is 5.", "5", info, **options))["score"]

    assert score({"answer_mark": "boxed"}) == 0
    assert score({"answer_mark": None}) == score({}) == score(None) == 1
    assert score({"answer_mark": "boxed"}, mode="flexible") == 1
