"""`api.evaluate`, `api.compare` and `api.report`, with an engine that needs no model."""

import json
import logging
import sys
from pathlib import Path

import pytest

from posttrain_verl import api
from posttrain_verl.evaluate.comparison import Evaluation
from posttrain_verl.evaluate.result import read_result

sys.path.append(str(Path(__file__).parents[1] / "report"))
import made_runs
import made_texts


@pytest.fixture
def evaluated(fake, model, sums, tmp_path):
    def run(**fields):
        return api.evaluate(base_model=model, eval=sums(12), runs_dir=tmp_path / "runs", **fields)

    return run


def test_an_evaluation_has_its_figures_and_its_file_and_prints_nothing(evaluated, tmp_path, capfd, caplog):
    caplog.set_level(logging.INFO)
    found = evaluated(rows=10, max_tokens=32)
    assert found.path == tmp_path / "runs/eval/model/base-sums-test.json" and found.result == read_result(found.path)
    assert (found.label, found.eval, found.n, len(found.items)) == ("base", "sums-test", 10, 10)
    assert found.accuracy == found.metrics["accuracy"] and found.accuracy["value"] == 1.0 and found.reward is None
    assert found.errors["logic"] == 0 and found.result["sampling"]["max_tokens"] == 32
    assert str(found).startswith("base on sums-test: accuracy 100.0 % [72.2, 100.0] of 10 questions; fewer than 200")
    assert len(repr(found)) < 300, "a notebook shows it"
    assert capfd.readouterr() == ("", "")
    assert "base on sums-test: 10 of 10 answers" in caplog.text


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"max_token": 3}, "did you mean max_tokens=?"), ({"rows": 0}, "rows=0 is too small"), ({"k": "many"}, "not a whole number"),
     ({"run": "x"}, "one of base_model= and run= is needed"), ({"temperature": -1.0}, "temperature=-1.0 is too small")],
)  # fmt: skip
def test_a_field_is_read_as_the_verb_reads_it(evaluated, fields, said):
    with pytest.raises(api.InputError) as wrong:
        evaluated(**fields)
    assert said in str(wrong.value)


def test_an_engine_that_fails_raises(evaluated, monkeypatch, capfd):
    monkeypatch.setenv("FAKE_DIES", "3")
    with pytest.raises(api.WorkFailed, match="no room for the weights"):
        evaluated()
    monkeypatch.delenv("FAKE_DIES")
    assert evaluated().n == 12
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def two(tmp_path):
    """The evaluations of a base model and of a run, and the run."""
    folder = made_runs.grpo(tmp_path / "runs" / "math_grpo" / "first", steps=4, prompts=1)
    base, trained = tmp_path / "runs/eval/base-embedded.json", folder / "eval" / "grpo-embedded.json"
    made_texts.evaluation(base, "base", 0.3, seed=1)
    made_texts.evaluation(trained, "grpo", 0.7, seed=2)
    return base, trained, api.Run(folder)


def test_evaluations_are_compared_by_object_by_file_and_by_run(two, capfd):
    base, trained, run = two
    found = api.compare(base, trained)
    (pair,) = found.pairs
    assert (pair.first, pair.second, pair.verdict) == ("base", "grpo", "gain")
    assert pair.numbers.low < pair.numbers.difference < pair.numbers.high and pair.corrected < 0.05
    assert str(found).endswith(pair.sentence()) and str(pair) == pair.sentence()
    assert len(repr(found)) < 1000, "a notebook shows it"
    as_objects = api.compare(*(Evaluation.read(path) for path in (base, trained)))
    assert as_objects == found
    for file in run.path.glob("eval/*.json"):
        if file != trained:
            file.unlink()
    assert api.compare(base, run) == found
    json.dumps(found.as_dict())
    assert capfd.readouterr() == ("", "")


def test_evaluations_that_had_one_file_are_compared_as_they_were_made(evaluated, monkeypatch, tmp_path):
    """The file is named by model and set, so the second evaluation replaces it."""
    monkeypatch.chdir(tmp_path)
    first, second = evaluated(rows=8), evaluated(rows=12, max_tokens=5)
    assert first.path == second.path and first.path.is_absolute()
    found = api.compare(first, second)
    (pair,) = found.pairs
    assert (pair.second, pair.numbers.n) == (f"{pair.first} (2)", 8)
    assert [result["n"] for result in found.evaluations.values()] == [8, 12]
    assert api.compare(first, first.path).evaluations == found.evaluations, "the file is that of the second now"


def test_one_evaluation_is_not_compared_with_itself(two):
    base, trained, run = two
    one = Evaluation.read(base)
    for given in ((base, base), (one, one), (one, base), (base, one), (one, Evaluation.read(base)), (run, run)):
        with pytest.raises(api.InputError, match="is named twice"):
            api.compare(*given)
    made_texts.evaluation(run.path / "eval" / "later-embedded.json", "later", 0.7, seed=3)
    assert len(api.compare(trained, run).evaluations) == 2, "a run may hold what is named before it"


@pytest.mark.parametrize("wrong", [None, [], ["a", "b"], 3, {}])
def test_what_is_not_an_evaluation_is_named(wrong):
    for call in (lambda: api.compare(wrong), lambda: api.report(wrong)):
        with pytest.raises(api.InputError, match="is neither a run nor an evaluation"):
            call()


def test_paths_are_absolute(two, monkeypatch, tmp_path):
    base, _, run = two
    monkeypatch.chdir(tmp_path)
    assert Evaluation.read(base.relative_to(tmp_path)).path == base
    assert api.report(run, out="page.html") == tmp_path / "page.html"


def test_what_cannot_be_compared_raises(two, tmp_path):
    with pytest.raises(api.InputError, match="no evaluation is named"):
        api.compare()
    with pytest.raises(api.InputError, match=r"nosuch\.json is not a file"):
        api.compare("nosuch.json")


@pytest.mark.parametrize("call", [lambda run, base: api.report(run), lambda run, base: run.status(),
                                  lambda run, base: run.resume()])  # fmt: skip
def test_a_run_of_another_user_is_one_message(two, monkeypatch, call):
    """Nobody's files are closed to root, who may run the tests."""
    base, _, run = two

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    for name in ("read_text", "open", "write_text", "read_bytes"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(
        api.InputError, match=rf"(?s){run.path.parents[1]}.* is not open to you; it belongs to \w+.*a copy"
    ):
        call(run, base)


def test_a_report_is_written_where_it_is_wanted(two, tmp_path, capfd):
    base, _, run = two
    assert api.report(run) == run.path / "report.html" and (run.path / "report.html").is_file()
    page = api.report(
        "math_grpo/first", vs=Evaluation.read(base), out=tmp_path / "page.html", runs_dir=tmp_path / "runs"
    )
    assert page == tmp_path / "page.html" and "math_grpo" in page.read_text()
    with pytest.raises(api.InputError, match="is a folder"):
        api.report(run, out=tmp_path)
    assert capfd.readouterr() == ("", "")
