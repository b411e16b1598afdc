"""The first sentence says what the numbers allow: planted differences are found or called noise."""

import json
import os
import re
from pathlib import Path

import made_runs
import pytest
from omegaconf import OmegaConf
from scipy.stats import binomtest

from posttrain_verl.report import findings, rollouts, run, subjects
from posttrain_verl.report.__main__ import write_report
from posttrain_verl.report.facts import format_time
from posttrain_verl.report.page import write_page
from posttrain_verl.report.run import Evaluation, Files
from posttrain_verl.terminal.problem import InputError


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


BASE_MODEL = "Qwen/Qwen2.5-7B-Instruct"  # of made_runs.grpo


def base_evaluation(home, **arguments):
    """What `evaluate base_model=` leaves beside the runs."""
    path = made_runs.evaluation(home / "eval" / "Qwen2.5-7B-Instruct" / "base-gsm8k.json", "base", 0.4, **arguments)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": BASE_MODEL}))
    return path


def test_the_evaluation_of_the_base_model_is_found(tmp_path):
    folder = made_runs.grpo(tmp_path / "math_grpo" / "a", steps=5, prompts=1)
    made_runs.evaluation(folder / "eval" / "e.json", "grpo", 0.6, seed=1)
    base = base_evaluation(tmp_path)
    page = subjects.Reader().page(folder)
    assert [each.label for each in page.evaluations] == ["base", "grpo"]
    assert page.sentences[0].startswith("The gain is real: grpo is better than base on gsm8k")
    base.write_text(json.dumps(json.loads(base.read_text()) | {"sampling": {"temperature": 1.0, "k": 1}}))
    assert "The evaluations on gsm8k were sampled differently" in subjects.Reader().page(folder).sentences[1]


@pytest.mark.parametrize(
    "change", [{"model": "Qwen/Qwen2.5-7B"}, {"eval": "math_500"}, {"schema": 0}, {"items": []}, {"metrics": {}}]
)
def test_evaluations_of_other_models_or_questions_are_not_taken_for_it(tmp_path, change):
    folder = made_runs.grpo(tmp_path / "math_grpo" / "a", steps=5, prompts=1)
    made_runs.evaluation(folder / "eval" / "e.json", "grpo", 0.6, seed=1)
    base = base_evaluation(tmp_path)
    base.write_text(json.dumps(json.loads(base.read_text()) | change))
    assert [each.label for each in subjects.Reader().page(folder).evaluations] == ["grpo"]


def test_of_several_of_the_base_model_the_one_sampled_alike_counts(tmp_path):
    folder = made_runs.grpo(tmp_path / "math_grpo" / "a", steps=5, prompts=1)
    made_runs.evaluation(folder / "eval" / "e.json", "grpo", 0.6, seed=1)
    alike = base_evaluation(tmp_path)
    other = json.loads(alike.read_text()) | {"sampling": {"temperature": 1.0, "k": 1}, "label": "warm"}
    (alike.parent / "warm-gsm8k.json").write_text(json.dumps(other))  # the newer one
    assert [each.label for each in subjects.Reader().page(folder).evaluations] == ["base", "grpo"]


@pytest.mark.parametrize("place", ["e.json", "", "eval"])
def test_what_compare_takes_is_what_it_is_compared_with(tmp_path, place):
    """A file of results, a folder of them, and a folder that has them in its eval/."""
    folder = made_runs.grpo(tmp_path / "runs" / "math_grpo" / "b", steps=5, prompts=1)
    made_runs.evaluation(folder / "eval" / "e.json", "new", 0.6, seed=1)
    made_runs.evaluation(tmp_path / "results" / "eval" / "e.json", "old", 0.4, seed=2)
    other = {"e.json": tmp_path / "results/eval/e.json", "eval": tmp_path / "results/eval", "": tmp_path / "results"}[
        place
    ]
    page = subjects.Reader().page(folder, other)
    assert page.sentences[0].startswith("The gain is real: new of math_grpo/b is better than old of ")
    assert [part.heading for part in page.parts] == ["math_grpo/b"], "there are no curves to compare with"


def test_what_holds_no_results_cannot_be_compared_with(tmp_path):
    folder = made_runs.grpo(tmp_path / "math_grpo" / "b", steps=5, prompts=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no evaluation"):
        subjects.Reader().page(folder, tmp_path / "empty")
    path = made_runs.evaluation(tmp_path / "rewards.json", "base", 0.5, n=4)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": {"mean_reward": {"value": 0.5}}}))
    with pytest.raises(InputError, match="has neither accuracy nor reward"):
        subjects.Reader().page(folder, path)
    (tmp_path / "it.json").write_text("{}")
    with pytest.raises(InputError, match="not an evaluation of schema 1"):
        subjects.Reader().page(folder, tmp_path / "it.json")


def as_rewards(path, change=0.0):
    """The file of an evaluation as one whose grades do not say what is right."""
    data = json.loads(path.read_text())
    items = [{**item, "score": item["acc"] / 2 + change} for item in data["items"]]
    items = [{key: value for key, value in item.items() if key != "acc"} for item in items]
    mean = sum(item["score"] for item in items) / len(items)
    metrics = {"reward": {"value": mean, "low": mean - 0.1, "high": mean + 0.1, "n": len(items)}}
    path.write_text(json.dumps(data | {"items": items, "metrics": metrics}))


def test_evaluations_by_a_reward_are_shown_and_compared_as_rewards(tmp_path):
    folder = made_runs.grpo(tmp_path / "math_grpo" / "b", steps=5, prompts=1)
    for label, right in (("base", 0.4), ("grpo", 0.6)):
        as_rewards(
            made_runs.evaluation(folder / "eval" / f"{label}.json", label, right, n=200, seed=3), change=right / 10
        )
    page = subjects.Reader().page(folder)
    assert page.sentences[0].startswith("The gain is real: grpo is better than base on gsm8k, 0.3")
    assert " of mean reward [" in page.sentences[0] and "%" not in page.sentences[0].split("(")[0]
    write_page(page, tmp_path / "page.html")
    assert "of mean reward [" in (tmp_path / "page.html").read_text() and page.compared[0].unit == "of mean reward"


def test_evaluations_of_other_questions_are_said_not_to_be_compared(tmp_path):
    folder, other = (made_runs.grpo(tmp_path / "math_grpo" / name, steps=5, prompts=1) for name in "ab")
    made_runs.evaluation(folder / "eval" / "e.json", "new", 0.6)
    path = made_runs.evaluation(other / "eval" / "e.json", "old", 0.4)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eval": "svamp"}))
    said = "there are math_grpo/a on gsm8k and math_grpo/b on svamp"
    assert said in subjects.Reader().page(folder, other).flaws[0]


def test_all_attempts_count(tmp_path):
    folder = made_runs.grpo(tmp_path / "math_grpo" / "a", steps=20, prompts=1)
    status = json.loads((folder / "status.json").read_text())
    before = {"attempt": 1, "state": "failed", "started": status["started"] - 90_000, "ended": status["started"] - 86_400,
              "resumed_from": None, "last_step": 9, "why": "no memory"}  # fmt: skip
    (folder / "attempts.jsonl").write_text(json.dumps(before) + "\n")
    (folder / "status.json").write_text(json.dumps(status | {"attempt": 2, "resumed_from": 8}))
    page = subjects.Reader().page(folder)
    assert (
        page.sentences[-1] == "The run ended as planned after step 20 of 20, 1 h 16 min in 2 attempts."
    )  # 3600 + 960 s
    assert next(tile for tile in page.tiles if tile.name == "Time") == ("Time", "1 h 16 min", "work of 2 attempts")
    first, last = findings.attempt_records(page.parts[0].run)
    assert (first["seconds"], first["begin"], first["last_step"], first["why"]) == (
        3600,
        "the beginning",
        9,
        "no memory",
    )
    assert (last["seconds"], last["begin"], last["state"]) == (960, "step 8", "done")
    write_page(page, tmp_path / "report.html")
    assert 'id="attempts-1"' in (tmp_path / "report.html").read_text()


def test_of_a_run_that_an_older_version_resumed_the_last_attempt_is_known(tmp_path):
    folder = made_runs.grpo(tmp_path / "math_grpo" / "a", steps=20, prompts=1)
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"attempt": 3}))
    page = subjects.Reader().page(folder)
    assert next(tile for tile in page.tiles if tile.name == "Time").note == "of the last attempt, without the first 2"
    assert findings.attempt_records(page.parts[0].run) == []


def test_the_head_says_what_was_run(tmp_path):
    folder = made_runs.grpo(tmp_path / "math_grpo" / "a", steps=5, prompts=1)
    [(heading, facts)] = subjects.Reader().page(folder).facts
    assert heading == "" and dict(facts) == {
        "Base model": "Qwen/Qwen2.5-7B-Instruct", "Algorithm": "grpo", "Data": "math, 16,384 rows",
        "Started": format_time(made_runs.START), "Machine": "node-1, 8 x NVIDIA H100", "Learning rate": "1e-06",
        "Batch": "1024 prompts x 5 rollouts = 5120 sequences a step", "Steps": "5",
        "Lengths": "prompt 512, response 1,024 tokens", "Rollouts": "5 a prompt, temperature 1"}  # fmt: skip


def test_the_data_is_that_of_the_files_which_were_trained_on(tmp_path):
    """A launch always has a mix, also where it trains on files of another data set or of none."""
    run = made_runs.grpo(tmp_path / "math_grpo" / "a", steps=5, prompts=1)
    config = OmegaConf.load(run / "config.yaml")
    for place, said in (("pairs", "own_pairs"), ("elsewhere", str(tmp_path / "elsewhere/rl_train.parquet"))):
        (tmp_path / place).mkdir()
        config.data.train_files = str(tmp_path / place / "rl_train.parquet")
        OmegaConf.save(config, run / "config.yaml")
        if place == "pairs":
            (tmp_path / place / "manifest.json").write_text(json.dumps({"mix": {"name": said}}))
        [(_, facts)] = subjects.Reader().page(run).facts
        assert dict(facts)["Data"] == said


def kinds(page):
    return {rollouts.KINDS[row[2]] for chunk in page.rollouts.chunks for row in chunk.rows}


def test_a_plain_reward_is_no_accuracy(tmp_path):
    """VeRL logs a number as `acc`. Nothing on the page calls an answer right, or a reward an accuracy."""
    folder = made_runs.plain_reward(tmp_path / "math_grpo" / "a")
    page = subjects.Reader().page(folder)
    assert page.sentences[0].startswith("Held-out reward went from 0.1 to 0.3 while training")
    assert {"Held-out reward", "Reward"} <= {figure["title"] for figure in page.figures}
    assert not {"Held-out accuracy", "Parts of the reward"} & {figure["title"] for figure in page.figures}
    assert kinds(page) == {"scored"}
    assert list(page.parts[0].run.results()) == ["critic/score/mean", "held-out reward/gsm8k/mean@1"]
    write_page(page, tmp_path / "report.html")
    body = (tmp_path / "report.html").read_text()
    assert "accuracy" not in body[body.index("<main") : body.index("</main>")].lower()


def test_a_config_with_values_where_verl_has_keys_costs_no_more_than_what_it_says(tmp_path):
    folder = made_runs.plain_reward(tmp_path / "math_grpo" / "a")
    (folder / "config.yaml").write_text("reward: {custom_reward_function: '${nowhere}'}\nactor_rollout_ref: 3\n")
    page = subjects.Reader().page(folder)
    assert page.sentences[0].startswith("Held-out reward") and dict(page.facts[0][1]).keys() == {"Algorithm", "Started"}


def test_a_score_that_is_declared_right_makes_an_accuracy(tmp_path):
    folder = made_runs.plain_reward(tmp_path / "math_grpo" / "a", right_at=0.9)
    page = subjects.Reader().page(folder)
    assert page.sentences[0].startswith("Held-out accuracy went from 0.0 % to 25.0 % while training")
    assert kinds(page) == {"right", "wrong"}
    again = subjects.Reader()
    assert again.page(folder).sentences == again.page(folder).sentences == page.sentences


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


def test_the_table_of_a_sweep_has_a_column_for_what_differs_and_links_its_runs(tmp_path):
    folder = made_runs.sweep(tmp_path)
    page = subjects.Reader().page(folder)
    assert page.swept == ["lr"]
    rates = {each.folder.removeprefix("20260801-120000-"): each.settings for each in page.members}
    assert rates == {"0": ["1e-6"], "1": ["3e-6"], "2": ["1e-5"], "3": ["1"]}
    assert ("Base model", "Qwen/Qwen2.5-7B-Instruct") in page.facts[0][1], "which all members share"
    out = write_report(folder)
    links = re.findall(r'<a href="([^"]+)">', out.read_text().partition("<main")[2].partition("</main>")[0])
    assert len(links) == 3 and all((folder / link).resolve().name == "report.html" for link in links)
    assert all((folder / link).is_file() for link in links)


def test_only_pages_of_members_that_are_missing_or_old_are_written(tmp_path):
    folder = made_runs.sweep(tmp_path)
    write_report(folder)
    first, second = (tmp_path / "math_grpo" / f"20260801-120000-{number}" for number in (0, 1))
    (first / "report.html").write_text("of the user")
    (second / "report.html").write_text("old")
    os.utime(second / "report.html", (1, 1))
    write_report(folder)
    assert (first / "report.html").read_text() == "of the user" and (second / "report.html").read_text() != "old"


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
