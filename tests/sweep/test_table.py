"""The table: sorted, with intervals, and with what is noise said to be noise."""

import io
import json

import pytest
from rich.console import Console

from posttrain_verl.sweep import plot, results, table
from posttrain_verl.sweep.record import Member, Record


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "runs/multirun/s", "verb", [])


def member(record, number, right=None, items=200, **metrics):
    """A member of the sweep with a validation in which `right` of `items` are right, or with metrics."""
    folder = record.folder.parents[1] / "r" / f"s-{number}"
    folder.mkdir(parents=True)
    if right is not None:
        (folder / "validation").mkdir()
        for step, correct in ((2, 0), (10, right)):
            lines = [{"input": f"q{i}", "acc": float(i < correct), "score": 0.5} for i in range(items)]
            (folder / f"validation/{step}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if metrics:
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 3, "data": metrics}) + "\n")
    record.members.append(Member(number, ["recipe=r", f"++lr={number}"], str(folder), state="done", code=0))


def test_the_best_comes_first_and_noise_is_called_noise(record):
    member(record, 0, right=100)
    member(record, 1, right=120)
    member(record, 2, right=118)
    found = table.rows(record)
    assert [row.member.number for row in found] == [1, 2, 0]
    assert [row.verdict.split(" (")[0] for row in found] == ["best", "noise", "worse"]
    assert found[0].value == "60.0 % [53.1, 66.5]"  # Wilson, 120 of 200


def test_p_values_are_corrected_for_the_number_of_members(record):
    for number, right in enumerate([106, 100, 100, 100, 100]):
        member(record, number, right=right)
    assert {row.verdict for row in table.rows(record)[1:]} == {
        "noise (p = 0.12)"
    }  # 4 x 0.03125, exact McNemar of 6 to 0


def test_other_items_are_compared_as_two_proportions(record):
    member(record, 0, right=150)
    member(record, 1, right=50, items=100)
    worse = table.rows(record)[1]
    assert worse.p == pytest.approx(1.49e-5, rel=0.01)  # z of 0.75 of 200 against 0.5 of 100


def test_nothing_right_on_either_is_no_difference(record):
    member(record, 0, right=0)
    member(record, 1, right=0, items=100)
    assert table.rows(record)[1].p == 1.0


def test_losses_have_no_interval_and_less_is_better(record):
    member(record, 0, **{"val/loss": 1.5, "train/loss": 0.1})
    member(record, 1, **{"val/loss": 1.25})
    found = table.rows(record)
    assert [(row.member.number, row.value, row.verdict) for row in found] == [(1, "1.25", "best"), (0, "1.5", "-")]
    assert "repeat members with other seeds" in printed(record)


def test_a_member_without_a_measure_comes_last(record):
    member(record, 0)
    member(record, 1, right=20)
    assert [row.member.number for row in table.rows(record)] == [1, 0]
    assert table.rows(record)[1].verdict == "-"


def test_a_sweep_that_measured_nothing_has_a_table(record):
    member(record, 0)
    assert "1 members" in printed(record)


def test_answers_to_one_question_are_one_item(tmp_path):
    (tmp_path / "validation").mkdir()
    lines = [{"input": "q", "score": 1.0}, {"input": "q", "score": 0.5}]
    (tmp_path / "validation/1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert results.read(tmp_path).items == {"q": 0.5}


def test_the_words_are_those_that_differ(record):
    member(record, 0, right=1)
    member(record, 1, right=2)
    assert "lr=1" in printed(record) and "recipe=r" not in printed(record)


def test_the_plot_has_a_point_with_its_interval_for_each_member(record, tmp_path):
    member(record, 0, right=100)
    member(record, 1, right=120)
    member(record, 2)
    drawn = plot.figure(record, table.rows(record)).data[0]
    assert list(drawn.x) == [0.5, 0.6] and list(drawn.y) == ["0: lr=0", "1: lr=1"]
    assert drawn.error_x.arrayminus[1] == pytest.approx(0.6 - 0.531, abs=1e-3)
    plot.write(record, table.rows(record), tmp_path / "page.html")
    assert 'src="http' not in (tmp_path / "page.html").read_text()


def printed(record) -> str:
    record.folder.mkdir(parents=True, exist_ok=True)
    console = Console(file=io.StringIO(), width=200)
    table.conclude(record, console)
    return console.file.getvalue()
