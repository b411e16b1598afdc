"""The first sentence says what the numbers allow: planted differences are found or called noise."""

import json
from pathlib import Path

import made_runs
import pytest
from scipy.stats import binomtest

from posttrain_verl.reporting import evaluations, subjects, verdict
from posttrain_verl.reporting.evaluations import Evaluation
from posttrain_verl.reporting.files import Files


def answered(label, *right, name="gsm8k", samples=1):
    """An evaluation with one item for each entry of `right`."""
    items = [{"id": f"q{i // samples}", "sample": i % samples, "acc": float(value)} for i, value in enumerate(right)]
    share = sum(right) / len(right)
    accuracy = {"value": share, "low": share, "high": share, "n": len(right)}
    return Evaluation(Path(f"{label}.json"), {"label": label, "eval": name, "n": len(right), "items": items,
                                        "metrics": {"accuracy": accuracy}})  # fmt: skip


@pytest.mark.parametrize(
    ("gained", "lost", "verdict_"),
    [(30, 5, "better"), (5, 30, "worse"), (12, 8, "noise"), (5, 0, "noise"), (6, 0, "better")],
)
def test_planted_differences(gained, lost, verdict_):
    both = [1] * 50 + [0] * 50
    found = evaluations.compare(
        answered("base", *both, *[0] * gained, *[1] * lost), answered("grpo", *both, *[1] * gained, *[0] * lost)
    )
    assert (found.gained, found.lost, found.verdict) == (gained, lost, verdict_)
    assert found.p == pytest.approx(binomtest(gained, gained + lost).pvalue), (
        "McNemar's exact test is this binomial test"
    )
    assert found.difference == pytest.approx((gained - lost) / found.n) and found.low < found.difference < found.high


def test_other_questions_are_not_compared():
    assert evaluations.compare(answered("a", 1, 0, 1), answered("b", 1, 0)) is None
    assert evaluations.comparisons([answered("a", 1, 0, name="x"), answered("b", 1, 0, name="y")]) == []


def test_the_same_answers_are_no_difference():
    assert evaluations.compare(answered("a", 1, 0, 1), answered("b", 1, 0, 1)).p == 1.0


def test_several_answers_a_question_are_clustered():
    first = answered("a", *[0, 1] * 40, samples=2)
    second = answered("b", *[1, 1] * 20, *[0, 1] * 20, samples=2)
    found = evaluations.compare(first, second)
    assert found.n == 40 and found.test.startswith("t-test") and found.difference == pytest.approx(0.25)


def test_several_comparisons_are_corrected():
    base, one = answered("base", *[0] * 6, 1, 0), answered("one", *[1] * 6, 1, 0)
    [alone] = evaluations.comparisons([base, one])
    pair = evaluations.comparisons([base, one, answered("two", *[1] * 6, 1, 0)])
    assert alone.verdict == "better" and [each.verdict for each in pair] == ["noise", "noise"]
    assert pair[0].p == pytest.approx(2 * alone.p) and "Holm" in pair[0].test


def test_the_sentences():
    base, grpo = answered("base", *[0] * 20, *[1] * 20), answered("grpo", *[1] * 40)
    better = verdict.of_comparison(evaluations.compare(base, grpo))
    assert (
        better.startswith("The gain is real: grpo is better than base on gsm8k, 100.0 %")
        and "exact McNemar p < 0.0001" in better
    )
    assert verdict.of_comparison(evaluations.compare(grpo, base)).startswith("The loss is real")
    same = verdict.of_comparison(evaluations.compare(base, answered("x", 1, *[0] * 19, *[1] * 20)))
    assert same.startswith("No difference is shown") and "within noise" in same


def sentences(folder, other=None):
    return subjects.Reader().page(folder, other).sentences


def test_without_a_pair_no_gain_is_claimed(tmp_path):
    folder = made_runs.grpo(tmp_path / "math_grpo" / "a", steps=20, prompts=1)
    assert "no proof of a gain" in sentences(folder)[0]
    made_runs.evaluation(folder / "eval" / "one.json", "grpo", 0.6)
    assert "not known: no other model" in sentences(folder)[0]


def test_against_another_run(tmp_path):
    folder, other = (made_runs.grpo(tmp_path / "math_grpo" / name, steps=5, prompts=1) for name in "ab")
    made_runs.evaluation(folder / "eval" / "e.json", "new", 0.6, seed=1)
    made_runs.evaluation(other / "eval" / "e.json", "old", 0.4, seed=2)
    page = subjects.Reader().page(folder, other)
    assert page.sentences[0].startswith("The gain is real: new is better than old")
    assert page.parts[0].heading == "Against math_grpo/b" and len(page.parts[0].figures[0]["curves"]) == 2


def test_it_says_what_ended_the_run(tmp_path):
    folder = made_runs.grpo(tmp_path / "math_grpo" / "a", steps=5, prompts=1, state="failed")
    assert "failed after step 5 of 5" in sentences(folder)[-1] and "the loss is not finite" in sentences(folder)[-1]
    stop = {"rule": "grad_norm", "level": "stop", "step": 4, "saw": "nan three times", "why": ""}
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps(stop) + "\n")
    assert "the watch stopped it at step 4 (grad_norm): nan three times" in sentences(folder)[-1]


def test_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "status.json").write_text(json.dumps({"state": "running", "pid": 1, "started": 0.0}))
    assert sentences(tmp_path)[0] == "Nothing has been measured yet."


def test_a_pipeline_and_a_sweep_have_pages(tmp_path):
    page = subjects.Reader().page(made_runs.pipeline(tmp_path))
    assert page.sentences[0].startswith("The gain is real: grpo is better than base")
    assert [part.heading for part in page.parts] == ["sft", "grpo"] and len(page.members) == 4
    assert len({figure["id"] for figure in page.figures}) == len(page.figures), "ids of figures are theirs alone"
    page = subjects.Reader().page(made_runs.sweep(tmp_path))
    assert page.state == "failed" and "partly luck" in page.sentences[1]
    labels = {figure["title"]: [curve["label"] for curve in figure["curves"]] for figure in page.figures}
    assert labels["Held-out accuracy"] == labels["Reward"] == ["lr=1e-6", "lr=3e-6", "lr=1e-5"]


def test_evaluations_of_another_kind_are_left_out(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "other.json").write_text('{"something": 1}')
    assert evaluations.read(Files(tmp_path)) == []
