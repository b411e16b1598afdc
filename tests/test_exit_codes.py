"""What the process of a verb ends with, and what it says."""

import json
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Le

from posttrain_verl.terminal.command_line import OutFile, OutFolder, Verb, key, main, option, read
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem, WorkFailed, exit_code


class StageFailed(WorkFailed):
    code = 5


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(InputError("nothing to do", [Problem("a is wrong", "write b")]), 2,
      "nothing to do (1 problem):\n  1. a is wrong\n     write b"),
     (WorkFailed("it broke"), 1, "it broke; go on so"), (StageFailed("it broke"), 5, "it broke; go on so"),
     (KeyboardInterrupt(), 130, "interrupted: go on so")],
    ids=["input", "failed", "with a code of its own", "Ctrl-C"],
)  # fmt: skip
def test_each_end_has_its_code_and_says_how_to_go_on(error, code, said, capsys):
    assert exit_code(raising(error), resume_hint="go on so") == code
    assert capsys.readouterr().err == said + "\n"


def test_work_that_ends_well_says_nothing(capsys):
    assert exit_code(lambda: 0) == 0 and exit_code(lambda: 1) == 1
    assert capsys.readouterr() == ("", "")


def test_a_mistake_as_json(capsys):
    assert exit_code(raising(InputError("no", [Problem("a", "b")])), as_json=True) == 2
    assert json.loads(capsys.readouterr().out)["problems"] == [{"what": "a", "remedy": "b", "level": "problem"}]


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 // 0)


class Sample(Verb):
    """Takes a field of each kind."""

    EXAMPLE = "port=1"

    port: Annotated[int, Ge(0), Le(9)] = key(0, "a number with bounds")
    run: str = key("a", "a text with a default")
    note: str = key("", "a text without one")
    form: Literal["whole", "half"] = key("whole", "one of two")
    fast: bool = key(True, "a switch")
    out: OutFile = key("", "a file", "posttrain.out")
    home: OutFolder = key("runs", "a folder", "posttrain.home")
    lines: int = option("-n", "--lines", default=5, text="an option with a value")
    as_json: bool = option("--json", text="an option without one")


class Needs(Sample):
    who: str = key("", "what must be given", remedy="add who=NAME")


def wrong(declared, *words):
    with pytest.raises(InputError) as caught:
        read(declared, words)
    return [(problem.what, problem.remedy) for problem in caught.value.problems]


def test_words_and_options_come_in_any_order_with_their_types():
    asked = read(Sample, ["--json", "port=1", "-n", "7", "fast=false", "port=2", "form=HALF", "note="])
    assert (asked.port, asked.lines, asked.as_json, asked.fast, asked.form, asked.note) == (
        2,
        7,
        True,
        False,
        "half",
        "",
    )
    assert read(Sample, ["-n7"]).lines == read(Sample, ["--lines=7"]).lines == 7
    assert read(Sample, []) == Sample()


def test_everything_that_is_wrong_is_told_at_once_with_the_nearest_name():
    found = wrong(Needs, "prt=3", "x", "--jsn", "form=hafl", "fast=maybe", "port=a", "-n", "b")
    assert [what for what, _ in found] == [
        "'prt=3' is not an option of needs", "'x' is not an option of needs", "'--jsn' is not an option of needs",
        "port=a is not a whole number", "form=hafl is unknown", "fast=maybe is neither true nor false", "who= is missing",
        "--lines b is not a whole number"]  # fmt: skip
    remedies = dict(found)
    assert remedies["'prt=3' is not an option of needs"].startswith("did you mean port=? there are: port=, run=")
    assert remedies["'--jsn' is not an option of needs"].startswith("did you mean --json?")
    assert remedies["form=hafl is unknown"].startswith("did you mean form=half?")
    assert remedies["who= is missing"] == "add who=NAME"


def test_bounds_are_told():
    assert wrong(Sample, "port=-1") == [("port=-1 is too small", "at least 0")]
    assert wrong(Sample, "port=10") == [("port=10 is too large", "at most 9")]


def test_an_empty_value_is_told_where_there_is_a_default():
    assert [what for what, _ in wrong(Sample, "port=", "run=", "note=")] == ["port= has no value", "run= has no value"]


def test_an_option_without_its_value_is_told():
    ((what, remedy),) = wrong(Needs, "who=me", "-n")
    assert "-n/--lines" in what and "--help" in remedy


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    read(Sample, ["posttrain.out=", f"posttrain.out={tmp_path}/new/a.json", f"posttrain.home={tmp_path}/new"])
    ((what, _),) = wrong(Sample, f"posttrain.out={tmp_path}")
    assert what == f"posttrain.out={tmp_path} is a folder"
    found = wrong(Sample, f"posttrain.out={tmp_path}/file/a.json", f"posttrain.home={tmp_path}/file")
    assert [what.partition(": ")[2] for what, _ in found] == [f"{tmp_path}/file is a file"] * 2


def test_the_verb_gets_what_was_asked_for_and_help_is_no_work(capsys):
    assert main(Sample, lambda asked: asked.port, ["port=3"]) == 3
    assert main(Sample, lambda asked: pytest.fail("it was called"), ["port=3", "--help"]) == 0
    assert "Takes a field of each kind." in capsys.readouterr().out
    assert main(Sample, lambda asked: pytest.fail("it was called"), ["port=x", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["problems"][0]["what"] == "port=x is not a whole number"


def test_progress_is_shown_by_the_command_line_alone(capsys):
    def work(asked):
        log.info("100 % done")
        return 0

    log.info("nobody listens")
    assert main(Sample, work, []) == 0
    assert capsys.readouterr() == ("100 % done\n", "")
    assert not log.handlers and log.propagate
