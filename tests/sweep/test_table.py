"""The table: sorted, with intervals, and with what is noise said to be noise."""

import io
import json
import re

import pytest
from rich.console import Console

from posttrain_verl import recipe_verbs
from posttrain_verl.report import findings
from posttrain_verl.sweep import members, table
from posttrain_verl.sweep.members import Member, Record


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "runs/multirun/s", "verb", [])


GRADED = {
    "val-core/gsm8k/acc/mean@1": 0.5,
    "val-aux/gsm8k/score/mean@1": 0.5,
}  # of a reward that returns a grade with parts
PLAIN = {"val-core/gsm8k/acc/mean@1": 0.5, "val-aux/gsm8k/reward/mean@1": 0.5}  # of one that returns a number


def validation(folder, lines, metrics, step=1):
    """A validation as VeRL leaves it."""
    (folder / "validation").mkdir(parents=True, exist_ok=True)
    (folder / f"validation/{step}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": step, "data": metrics}) + "\n")


def member(record, number, right=None, items=200, **metrics):
    """A member of the sweep with a validation in which `right` of `items` are right, or with metrics."""
    folder = record.folder.parents[1] / "r" / f"s-{number}"
    folder.mkdir(parents=True)
    if right is not None:
        for step, correct in ((2, 0), (10, right)):
            lines = [{"input": f"q{i}", "acc": float(i < correct), "score": 0.5} for i in range(items)]
            validation(folder, lines, GRADED, step)
    if metrics:
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 3, "data": metrics}) + "\n")
    record.members.append(Member(number, ["recipe=r", f"++lr={number}"], str(folder), state="done", code=0))


def test_the_best_comes_first_and_noise_is_called_noise(record):
    member(record, 0, right=100)
    member(record, 1, right=120)
    member(record, 2, right=118)
    found = table.rank_members(record)
    assert [row.member.number for row in found] == [1, 2, 0]
    assert [row.verdict.split(" (")[0] for row in found] == ["best", "noise", "worse"]
    assert found[0].value == "60.0 % [53.1, 66.5]"  # Wilson, 120 of 200


def test_p_values_are_corrected_for_the_number_of_members(record):
    for number, right in enumerate([106, 100, 100, 100, 100]):
        member(record, number, right=right)
    corrected = {"noise (p = 0.12)"}  # 4 x 0.03125, exact McNemar of 6 to 0
    assert {row.verdict for row in table.rank_members(record)[1:]} == corrected


def test_other_items_are_compared_as_two_proportions(record):
    member(record, 0, right=150)
    member(record, 1, right=50, items=100)
    worse = table.rank_members(record)[1]
    assert worse.p == pytest.approx(1.49e-5, rel=0.01)  # z of 0.75 of 200 against 0.5 of 100


def test_nothing_right_on_either_is_no_difference(record):
    member(record, 0, right=0)
    member(record, 1, right=0, items=100)
    assert table.rank_members(record)[1].p == 1.0


def test_losses_have_no_interval_and_less_is_better(record):
    member(record, 0, **{"val/loss": 1.5, "train/loss": 0.1})
    member(record, 1, **{"val/loss": 1.25})
    found = table.rank_members(record)
    assert [(row.member.number, row.value, row.verdict) for row in found] == [(1, "1.25", "best"), (0, "1.5", "-")]
    assert "repeat members with other seeds" in printed(record)


def test_a_member_without_a_measure_comes_last(record):
    member(record, 0)
    member(record, 1, right=20)
    assert [row.member.number for row in table.rank_members(record)] == [1, 0]
    assert table.rank_members(record)[1].verdict == "-"


def test_a_sweep_that_measured_nothing_has_a_table(record):
    member(record, 0)
    assert "1 members" in printed(record)


def test_answers_to_one_question_are_one_item(tmp_path):
    validation(tmp_path, [{"input": "q", "score": 1.0, "acc": 1.0}, {"input": "q", "score": 0.5, "acc": 0.0}], GRADED)
    assert members.read_result(tmp_path).items == {"q": 0.5}


def rewarded(record, number, rewards, right_at=None):
    """A member whose reward is a plain number, which VeRL dumps as `acc`, too."""
    folder = record.folder.parents[1] / "r" / f"s-{number}"
    validation(folder, [{"input": f"q{i}", "score": each, "acc": each} for i, each in enumerate(rewards)], PLAIN)
    (folder / "config.yaml").write_text("{}")
    (folder / "plan.json").write_text(json.dumps({"stage": "rl", "posttrain": {"reward": {"right_at": right_at}}}))
    record.members.append(Member(number, ["recipe=r", f"++lr={number}"], str(folder), state="done", code=0))


def test_a_reward_without_a_verdict_is_compared_as_a_reward(record):
    rewarded(record, 0, [0.1 * (i % 3) for i in range(60)])
    rewarded(record, 1, [0.1 * (i % 3) + 0.5 + 0.01 * (i % 2) for i in range(60)])
    rewarded(record, 2, [0.1 * (i % 3) + 0.5 for i in range(59)])  # other questions
    found = table.rank_members(record)
    assert [row.member.number for row in found] == [1, 2, 0] and found[0].result.measure == "held-out reward"
    assert found[0].value == "0.605 [0.5837, 0.6263]"  # 0.605 -+ 2.001 x 0.08249 / sqrt(60), Student's t
    assert [row.verdict.split(" (")[0] for row in found] == ["best", "noise", "worse"]
    said = printed(record)
    assert "Student" in said and "%" not in said.replace("95 %", "")


def test_a_score_that_is_declared_right_makes_an_accuracy(record):
    rewarded(record, 0, [0.9] * 50 + [0.1] * 50, right_at=0.9)
    [row] = table.rank_members(record)
    assert row.result.measure == "accuracy" and row.value == "50.0 % [40.4, 59.6]"


def test_members_with_other_measures_are_not_tested_against_each_other(record):
    rewarded(record, 0, [0.9, 0.8, 0.7])
    rewarded(record, 1, [0.9, 0.1, 0.1], right_at=0.9)
    assert [row.p for row in table.rank_members(record)] == [None, None]


def test_the_words_are_those_that_differ(record):
    member(record, 0, right=1)
    member(record, 1, right=2)
    assert "lr=1" in printed(record) and "recipe=r" not in printed(record)


def test_the_page_has_a_point_with_its_interval_for_each_member(record):
    member(record, 0, right=100)
    member(record, 1, right=120)
    member(record, 2)
    record.save()
    recipe_verbs.page_of_sweep(record.folder)
    page = (record.folder / "sweep.html").read_text()
    assert 'src="http' not in page
    low, high = 0.4313, 0.6654  # Wilson, 100 and 120 of 200: the ends of the line
    for value, ends in ((0.5, (low, 0.5687)), (0.6, (0.5309, high))):
        whisker = re.search(
            rf'aria-label="{100 * value:.1f} %[^"]*">.*?whisker" x1="(.*?)" x2="(.*?)".*?dot" x1="(.*?)"', page, re.S
        )
        drawn = [float(number) / 200 * (high - low) + low for number in whisker.groups()]
        assert drawn == pytest.approx([*ends, value], abs=1e-3)
    assert page.count('class="dot"') == 2 and "43.1 to 66.5 %" in page


def test_losses_have_points_and_no_intervals(record):
    for number, loss in enumerate((3.0, 1.0, 2.0)):
        member(record, number, **{"val/loss": loss})
    member(record, 3, **{"critic/score/mean": -9.0})  # the worst, and on another scale
    scale, drawn = findings.intervals(table.rank_members(record))
    assert scale == "val/loss, 1 to 3" and drawn == [(0.0,) * 3, (0.5,) * 3, (1.0,) * 3, None]


def printed(record) -> str:
    record.folder.mkdir(parents=True, exist_ok=True)
    console = Console(file=io.StringIO(), width=200)
    table.conclude_sweep(record, console)
    return console.file.getvalue()


def test_a_loss_that_was_not_finite_is_not_a_result(tmp_path):
    """VeRL writes null for it; the last that was finite counts, and a run without any has measured nothing."""
    lines = [{"step": step, "data": {"train/loss": loss}} for step, loss in ((1, 2.5), (2, None))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = members.read_result(tmp_path)
    assert result and (result.value, result.step) == (2.5, 1)
    (tmp_path / "metrics.jsonl").write_text(json.dumps(lines[1]) + "\n")
    assert members.read_result(tmp_path) is None
