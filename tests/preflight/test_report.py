"""Verdicts, warnings and skipped checks."""

import json
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from posttrain_verl import preflight
from posttrain_verl.compose import compose
from posttrain_verl.preflight.report import CannotTell, run_check
from posttrain_verl.terminal.problem import InputError, Problem, warning
from posttrain_verl.verl.composed import Composed


@pytest.fixture(scope="module")
def launch() -> Composed:
    return compose(["recipe=math_sft", "hardware=cpu", "base_model=tiny", "mix=embedded"])


@pytest.fixture
def checks(monkeypatch) -> dict:
    """The registry with three checks of known outcome in the place of the real ones."""

    def blind(_):
        raise CannotTell("the model is elsewhere")

    known = {
        "shape": lambda _: [],
        "fails": lambda _: [Problem("a is 3", "set a=4")],
        "warns": lambda _: [warning("b is odd", "set b=2")],
        "blind": blind,
    }
    monkeypatch.setattr(preflight, "CHECKS", known)
    return known


def skipping(launch: Composed, *names: str) -> Composed:
    return replace(launch, posttrain=OmegaConf.merge(launch.posttrain, {"skip": list(names)}))


def verdicts(composed: Composed, **options) -> dict[str, str]:
    return {verdict.check: verdict.verdict for verdict in preflight.run_checks(composed, **options).verdicts}


def test_every_check_has_a_verdict(launch, checks):
    assert verdicts(launch) == {"shape": "passed", "fails": "failed", "warns": "warned", "blind": "unseen"}


def test_problems_stop_a_launch_and_show_the_warnings_too(launch, checks):
    with pytest.raises(InputError) as error:
        preflight.raise_if_blocked(preflight.find_problems(launch), launch)
    assert str(error.value).splitlines() == [
        "recipe 'math_sft' cannot launch (1 problem):",
        "  1. a is 3",
        "     set a=4",
        "  warning: b is odd",
        "     set b=2",
    ]


def test_warnings_alone_do_not(launch, checks):
    report = preflight.run_checks(launch, skip=("fails",))
    preflight.raise_if_blocked(report.problems, launch)
    assert "  warning: b is odd" in report.lines()
    assert "  unseen: blind (the model is elsewhere)" in report.lines()


def test_a_skipped_check_does_not_run_and_the_run_folder_says_so(launch, checks, tmp_path):
    composed = skipping(launch, "fails")
    assert verdicts(composed) == {
        "skip": "passed", "shape": "passed", "fails": "skipped", "warns": "warned", "blind": "unseen"
    }  # fmt: skip
    preflight.run_checks(composed).write(tmp_path)
    written = json.loads((tmp_path / "preflight.json").read_text())
    assert written["ok"] is True
    entries = {entry["check"]: entry for entry in written["checks"]}
    assert entries["fails"]["verdict"] == "skipped" and entries["fails"]["note"] == "posttrain.skip"
    assert entries["warns"]["problems"] == [{"what": "b is odd", "remedy": "set b=2", "level": "warning"}]
    assert entries["shape"]["seconds"] >= 0


def test_an_unknown_name_is_a_problem(launch):
    problem = preflight.run_checks(skipping(launch, "dsik")).problems[0]
    assert problem.what == "posttrain.skip=dsik: there is no such check"
    assert problem.remedy.startswith("did you mean disk? there are: keys, shape")


def test_the_form_of_the_tree_is_always_checked(launch):
    words = [
        "recipe=math_sft",
        "hardware=cpu",
        "base_model=tiny",
        "mix=embedded",
        "posttrain.skip=[shape]",
        "data.max_length=[]",
    ]
    found = {verdict.check: verdict for verdict in preflight.run_checks(compose(words)).verdicts}
    assert found["skip"].verdict == "failed" and found["shape"].verdict == "failed"
    assert found["batch"].verdict == "unseen"


def test_one_name_without_a_list():
    composed = compose(["recipe=math_sft", "hardware=cpu", "base_model=tiny", "mix=embedded", "posttrain.skip=disk"])
    assert verdicts(composed)["disk"] == "skipped"


@pytest.mark.parametrize("value", ["3", "true"])
def test_what_is_no_list_of_names_is_a_problem(value):
    with pytest.raises(InputError, match="is not a list"):
        compose(["recipe=math_sft", "hardware=cpu", "base_model=tiny", f"posttrain.skip={value}"])


def test_a_check_is_timed(launch):
    assert run_check("one", lambda _: [], launch).seconds < 1
