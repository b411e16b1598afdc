"""The first sentence says what the numbers allow: planted differences are found or called noise."""

import json
from pathlib import Path

import made_runs
import pytest
from scipy.stats import binomtest

from posttrain_verl.report import findings, run, subjects
from posttrain_verl.report.run import Evaluation, Files


def answered(label, *right, name="gsm8k", samples=1):
    """An evaluation with one item for each entry of `right`, `samples` to a question."""
    items = [
        {"id": f"q{i // samples}", "sample": i % samples, "gold": "1", "acc": float(value)}
        for i, value in enumerate(right)
    ]
    mean = sum(right) / len(right)
    accuracy = {"value": mean, "low": mean, "high": mean, "n": len(right) // samples}
    data = {"label": label, "eval": name, "n": len(right), "items": items, "metrics": {"accuracy": accuracy}}
    return Evaluation(Path(f"{label}.json"), data)


def compared(*found):
    files = Files(Path("nowhere"))
    return run.compare_evaluations(found, files), files.flaws


@pytest.mark.parametrize(
    ("gained", "lost", "said"), [(30, 5, "gain"), (5, 30, "loss"), (12, 8, "noise"), (5, 0, "noise"), (6, 0, "gain")]
)
def test_planted_differences(gained, lost, said):
    both = [1] * 50 + [0] * 50
    base, grpo = (
        answered("base", *both, *[0] * gained, *[1] * lost),
        answered("grpo", *both, *[1] * gained, *[0] * lost),
    )
    [found], flaws = compared(base, grpo)
    assert (found.numbers.gained, found.numbers.lost, found.verdict, flaws) == (gained, lost, said, [])
    assert found.corrected == pytest.approx(binomtest(gained, gained + lost).pvalue), (
        "McNemar's exact test is this test"
    )
    begins = {"gain": "The gain is real: grpo is better than base on gsm8k", "loss": "The loss is real: grpo is worse",
              "noise": "No difference is shown: grpo against base"}[said]  # fmt: skip
    assert findings.comparison_sentence(found, [base, grpo]).startswith(begins)


def test_the_sentence_has_the_figures():
    base, grpo = answered("base", *[0] * 20, *[1] * 20), answered("grpo", *[1] * 40)
    [found], _ = compared(base, grpo)
    said = findings.comparison_sentence(found, [base, grpo])
    assert "100.0 % [100.0, 100.0] against 50.0 % [50.0, 50.0] (+50.0 points [" in said
    assert said.endswith("exact McNemar p < 0.0001, n = 40).")


def test_other_questions_are_not_compared_and_that_is_said():
    other = answered("b", 1, 0)
    for item in other.items:
        item["id"] = "other " + item["id"]
    found, flaws = compared(answered("a", 1, 0, 1), other)
    assert found == [] and "share no question" in flaws[0]
    assert compared(answered("a", 1, 0, name="x"), answered("b", 1, 0, name="y")) == ([], [])


def test_the_verdict_is_of_the_last_model_against_the_first_and_corrected():
    base, one, two = answered("base", *[0] * 6, 1, 0), answered("sft", *[1] * 6, 1, 0), answered("grpo", *[1] * 6, 1, 1)
    alone, _ = compared(base, one)
    several, _ = compared(base, one, two)
    first = run.headline_comparison(several)
    assert alone[0].verdict == "gain" and (first.first, first.second, first.of) == ("base", "grpo", 3)
    assert "corrected for 3 comparisons" in findings.comparison_sentence(first, [base, one, two])


def sentences(folder, other=None):
    return subjects.Reader().page(folder, other).sentences


def test_without_a_pair_no_gain_is_claimed(tmp_path):
    folder = made_runs.grpo(tmp_path / "math_grpo" / "a", steps=20, prompts=1)
    assert "does not prove a gain" in sentences(folder)[0]
    made_runs.evaluation(folder / "eval" / "one.json", "grpo", 0.6)
    assert "not known: no other model" in sentences(folder)[0]


def test_against_another_run(tmp_path):
    folder, other = (made_runs.grpo(tmp_path / "math_grpo" / name, steps=5, prompts=1) for name in "ab")
    made_runs.evaluation(folder / "eval" / "e.json", "new", 0.6, seed=1)
    made_runs.evaluation(other / "eval" / "e.json", "old", 0.4, seed=2)
    page = subjects.Reader().page(folder, other)
    assert page.sentences[0].startswith("The gain is real: new of math_grpo/a is better than old of math_grpo/b")
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
    assert page.state == "failed" and "flattered by chance" in page.sentences[1]
    assert page.sentences[0].startswith("No run stands out: lr=") and "no more than noise" in page.sentences[0]
    assert [member.state for member in page.members] == ["done"] * 3 + ["failed"] and page.members[0].verdict == "best"
    labels = {figure["title"]: [curve["label"] for curve in figure["curves"]] for figure in page.figures}
    assert sorted(labels["Held-out accuracy"]) == sorted(labels["Reward"]) == ["lr=1e-5", "lr=1e-6", "lr=3e-6"]


def test_the_rollouts_of_a_pipeline_are_those_of_its_last_stage_that_samples(tmp_path):
    folder = made_runs.pipeline(tmp_path)
    last = made_runs.sft(tmp_path / "math_dpo" / "c")
    content = json.loads((folder / "pipeline.json").read_text())
    content["stages"].insert(3, {"name": "dpo", "state": "done", "run": str(last), "seconds": 900})
    before = subjects.Reader().page(folder)
    (folder / "pipeline.json").write_text(json.dumps(content))
    after = subjects.Reader().page(folder)
    assert [part.heading for part in after.parts] == ["sft", "grpo", "dpo"]
    assert after.rollouts.total == before.rollouts.total > 1000


def test_evaluations_of_another_kind_are_left_out(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "other.json").write_text('{"something": 1}')
    files = Files(tmp_path)
    assert run.read_evaluations(files) == [] and "not an evaluation of schema 1" in files.flaws[0]


def test_a_sweep_that_is_just_being_written(tmp_path):
    folder = made_runs.sweep(tmp_path)
    half = tmp_path / "math_grpo" / "20260801-120000-1" / "validation" / "60.jsonl"
    half.write_text(half.read_text()[:-20])
    page = subjects.Reader().page(folder)
    assert len(page.members) == 4 and any("cannot be compared now" in flaw for flaw in page.flaws)
    (folder / "sweep.json").write_text("{")
    assert "sweep.json cannot be read" in " ".join(subjects.Reader().page(folder).flaws)


def test_names_of_members_are_short_where_they_can_be():
    assert findings.short_overrides(["actor.optim.lr=1e-6", "data.seed=1"]) == "lr=1e-6 seed=1"
    assert findings.short_overrides(["actor.lr=1", "critic.lr=2"]) == "actor.lr=1 critic.lr=2"


def test_the_plan_stands_beside_what_happened(tmp_path):
    part = subjects.Reader().page(made_runs.grpo(tmp_path / "math_grpo" / "a", steps=4, prompts=1)).parts[0]
    rows = {row.what: (row.planned, row.happened) for row in findings.plan_rows(part.run)}
    assert rows["memory of a GPU, peak (GiB)"] == ("61", "52.5") and rows["steps"] == ("4", "4")
    assert rows["memory of the machine, peak (GiB)"] == ("130", "119")
    assert part.run.plan["arithmetic"]["words"].startswith("1024 prompts x 5")
    assert part.run.plan["memory"][0]["line"] == "weights, bf16"
