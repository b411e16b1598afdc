"""The verb from its words to its file, with an engine that needs no model."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain_verl.evaluate import __main__ as verb
from posttrain_verl.evaluate import job
from posttrain_verl.evaluate.replicas import EngineFailed
from posttrain_verl.terminal.command_line import read
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Evaluate


@pytest.fixture
def evaluate(fake, model, tmp_path):
    def run(file, *words):
        out = tmp_path / "out" / "base-sums.json"
        asked = job.read_job(read(Evaluate, [f"base_model={model}", f"eval={file}", f"posttrain.out={out}", *words]))
        result = verb.evaluate_model(asked)
        assert json.loads(out.read_text()) == result
        return result

    return run


def test_the_whole_set_is_answered_once_and_graded(evaluate, sums, fake):
    result = evaluate(sums(40))
    assert [item["id"] for item in result["items"]] == [f"sum/{n}" for n in range(40)], "in the order of the set"
    assert (result["n"], result["population"], result["stratified_by"]) == (40, 40, None)
    assert result["metrics"]["accuracy"] == {"value": 1.0, "low": pytest.approx(0.9124, abs=1e-4), "high": 1.0, "n": 40}
    assert (result["label"], result["eval"], result["noise"]) == ("base", "sums-test", True)
    assert "pass@1" not in result["metrics"]
    assert len(fake()) == 40


def test_samples_of_a_question_are_kept_apart(evaluate, sums):
    result = evaluate(sums(5), "k=4", "temperature=0.7")
    assert [(item["id"], item["sample"], item["acc"]) for item in result["items"][:4]] == [
        ("sum/0", 0, 1), ("sum/0", 1, 0), ("sum/0", 2, 1), ("sum/0", 3, 0)]  # fmt: skip
    assert result["metrics"]["accuracy"]["value"] == 0.5
    assert result["metrics"]["pass@4"]["value"] == 1.0
    assert result["errors"]["logic"] == 10
    assert result["items"][1]["evidence"] == "10 + 20 = 31, but it is 30"
    assert result["sampling"]["k"] == 4


def test_a_row_budget_draws_the_same_stratified_sample_for_every_model(evaluate, sums, model):
    file = sums(300)
    first = evaluate(file, "rows=30")
    assert (first["n"], first["population"], first["stratified_by"], first["noise"]) == (30, 300, "difficulty", True)
    strata = [item["stratum"] for item in first["items"]]
    assert {name: strata.count(name) for name in "012"} == {"0": 10, "1": 10, "2": 10}
    (model / "model.safetensors").write_bytes((3).to_bytes(8, "little") + b"{ }")
    second = evaluate(file, "rows=30")
    assert [item["id"] for item in second["items"]] == [item["id"] for item in first["items"]]
    assert not evaluate(file, "rows=200")["noise"]


def test_a_time_budget_ends_the_asking_and_leaves_whole_questions(evaluate, sums, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.05")
    result = evaluate(sums(300), "seconds=1", "k=2", "temperature=1")
    assert 3 <= result["n"] < 60
    assert len(result["items"]) == 2 * result["n"]
    assert result["noise"] and result["stratified_by"] == "difficulty"


def test_replicas_share_the_questions(evaluate, sums, fake):
    result = evaluate(sums(40), "replicas=2")
    assert result["metrics"]["accuracy"]["value"] == 1.0
    asked = fake()
    assert sorted(sum(pid == one for pid, *_ in asked) for one in {pid for pid, *_ in asked}) == [20, 20]
    assert sorted(name for _, name, _ in asked) == sorted(f"sum/{n}" for n in range(40))


def test_an_engine_that_ends_early_is_told_and_its_answers_are_kept(evaluate, sums, fake, monkeypatch):
    file = sums(30)
    monkeypatch.setenv("FAKE_DIES", "11")
    said = r"exit code 3: ValueError: no room for the weights; the log is .*base-sums\.log"
    with pytest.raises(EngineFailed, match=said) as failed:
        evaluate(file)
    assert failed.value.resumes
    monkeypatch.delenv("FAKE_DIES")
    before = len(fake())
    assert evaluate(file)["metrics"]["accuracy"]["value"] == 1.0
    assert len(fake()) - before == 19
    evaluate(file)
    assert len(fake()) - before == 19, "with every answer there no engine starts"


def test_an_engine_that_never_answers_leaves_nothing_to_resume(evaluate, sums, monkeypatch):
    monkeypatch.setenv("FAKE_DIES", "0")
    with pytest.raises(EngineFailed, match="no room for the weights") as failed:
        evaluate(sums(3))
    assert not failed.value.resumes


def test_more_samples_ask_only_for_those_that_are_missing(evaluate, sums, fake):
    evaluate(sums(3), "k=2", "temperature=1")
    evaluate(sums(3), "k=4", "temperature=1")
    assert [samples for _, _, samples in fake()] == [[0, 1]] * 3 + [[2, 3]] * 3


def test_a_killed_evaluation_leaves_no_engine_and_goes_on(fake, sums, model, tmp_path):
    out, file = tmp_path / "k.json", sums(30)
    command = [sys.executable, "-m", "posttrain_verl.evaluate", f"base_model={model}", f"eval={file}",
               f"posttrain.out={out}"]  # fmt: skip
    answers = out.with_suffix(".answers.jsonl")
    environ = {**os.environ, "FAKE_SECONDS": "0.2"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (answers.exists() and len(answers.read_text().splitlines()) > 4):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    assert not out.exists()
    engine, until = Path("/proc") / str(fake()[0][0]), time.monotonic() + 10
    while engine.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not engine.exists(), "an engine outlives the evaluation that started it"
    kept, before = len(answers.read_text().splitlines()) - 1, len(fake())
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["metrics"]["accuracy"]["value"] == 1.0
    assert len(fake()) - before == 30 - kept


def test_the_verb_prints_its_figures_and_the_mark_of_noise(fake, sums, model, tmp_path):
    command = [sys.executable, "-m", "posttrain_verl.evaluate", f"base_model={model}", f"eval={sums(12)}",
               f"posttrain.runs_dir={tmp_path}/runs"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "150"})
    assert "100.0 % [75.8, 100.0]" in done.stdout
    assert "NOISE: base on sums-test has n = 12 questions" in done.stdout
    assert (tmp_path / "runs" / "eval" / "model" / "base-sums-test.json").is_file()
    assert "base on sums-test" in done.stderr and "12/12" in done.stderr, "the progress bar"


def test_wrong_words_are_told_all_at_once():
    with pytest.raises(InputError) as caught:
        read(Evaluate, ["base_modle=x", "k=many", "rows=0"])
    said = str(caught.value)
    for part in (
        "(5 problems)",
        "did you mean base_model=?",
        "k=many is not a whole number",
        "rows=0 is too small",
        "eval= is missing",
    ):
        assert part in said


def test_greedy_samples_would_be_one(sums, model):
    with pytest.raises(InputError, match=r"k=4 with temperature=0(.|\n)*add temperature"):
        job.read_job(read(Evaluate, [f"base_model={model}", f"eval={sums(3)}", "k=4"]))


def test_an_architecture_that_vllm_gave_up_starts_no_engine(evaluate, sums, fake, model):
    (model / "config.json").write_text(json.dumps({"architectures": ["Phi3SmallForCausalLM"]}))
    with pytest.raises(InputError) as raised:
        evaluate(sums(3))
    assert "0.9.2" in raised.value.problems[0].what and not fake()
