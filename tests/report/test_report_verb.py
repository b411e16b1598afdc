"""The verb: its arguments, its errors, and a page that needs nothing but itself."""

import re

import made_runs
import pytest

from posttrain_verl.report import __main__ as report
from posttrain_verl.report import page
from posttrain_verl.terminal.command_line import read
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verbs import Report


@pytest.fixture
def made(tmp_path):
    return made_runs.grpo(tmp_path / "runs" / "math_grpo" / "a", steps=4, prompts=1)


@pytest.mark.parametrize("name", ["a", "math_grpo", "math_grpo/a"])
def test_a_run_is_found_by_its_names(made, name, capsys):
    assert report.run(read(Report, [f"run={name}", f"posttrain.runs_dir={made.parents[1]}"])) == 0
    assert str(made / "report.html") in capsys.readouterr().out and (made / "report.html").is_file()


def test_a_folder_and_an_out_file(made, tmp_path):
    assert report.run(read(Report, [f"run={made}", f"posttrain.out={tmp_path}/new/page.html"])) == 0
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!doctype html>")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


@pytest.mark.parametrize("form", ["math_grpo/b", "results.json", "results", "{}/math_grpo/b"])
def test_vs_takes_what_compare_takes(made, tmp_path, form, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = made_runs.grpo(made.parent / "b", steps=4, prompts=1)
    made_runs.evaluation(made / "eval" / "grpo-gsm8k.json", "new", 0.6)
    for path in (other / "eval" / "e.json", tmp_path / "results.json", tmp_path / "results" / "e.json"):
        made_runs.evaluation(path, "old", 0.4, seed=2)
    home = made.parents[1]
    words = [f"run={made}", f"vs={form.format(home)}", f"posttrain.runs_dir={home}"]
    assert report.run(read(Report, words)) == 0
    assert "The gain is real: new of math_grpo/a is better than old of" in (made / "report.html").read_text()


@pytest.mark.parametrize("form", ["nothing.json", "nothing"])
def test_a_vs_that_is_not_there(made, form):
    with pytest.raises(InputError):
        report.run(read(Report, [f"run={made}", f"vs={form}", f"posttrain.runs_dir={made.parents[1]}"]))


def test_mistakes_are_shown_together():
    with pytest.raises(InputError) as caught:
        report.run(read(Report, ["rnu=a", "rollouts=many"]))
    assert [problem.what for problem in caught.value.problems] == ["'rnu=a' is not an option of report", "run= is missing",
                                                                   "rollouts=many is not a whole number"]  # fmt: skip


def test_a_run_that_is_not_there(made):
    with pytest.raises(InputError, match="newest runs there: math_grpo/a"):
        report.run(read(Report, ["run=nothing", f"posttrain.runs_dir={made.parents[1]}"]))


def test_the_page_names_no_other_file(made):
    text = re.sub(r"<script>.*?</script>", "", report.write_report(made).read_text(), flags=re.DOTALL)
    assert not re.findall(r"<(?:link|img|iframe|object|embed|script[^>]+src)", text)
    assert "@import" not in text and "url(" not in page._style_sheet() and "connect-src &#39;none&#39;" in text


def test_texts_of_a_model_are_no_html(made):
    (made / "events.jsonl").write_text('{"rule": "<script>alert(1)</script>", "level": "warn", "step": 1}\n')
    status = made / "status.json"
    status.write_text(status.read_text().replace('"why": ""', '"why": "</script><b>"'))
    text = report.write_report(made).read_text()
    assert "<script>alert(1)" not in text and "</script><b>" not in text and "&lt;script&gt;alert(1)" in text


def test_data_in_a_script_element_cannot_end_it():
    assert page.json_data("</script><!-- \u2028") == '"\\u003c/script>\\u003c!-- \\u2028"'
