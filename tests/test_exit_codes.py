"""What the process of a verb ends with, and what it says."""

import json

import pytest

from posttrain_verl import options
from posttrain_verl.problem import InputError, Problem, WorkFailed, exit_code


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
    assert exit_code(raising(error), goes_on="go on so") == code
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


def test_the_last_word_of_an_option_counts_and_others_are_told():
    given, problems = options.read("serve", ["port=1", "port=2", "prt=3", "x"], {"port": "0", "run": "a"})
    assert given == {"port": "2", "run": "a"}
    assert [problem.what for problem in problems] == ["'prt=3' is no option of serve", "'x' is no option of serve"]
    assert problems[0].remedy == "did you mean port=? there are: port=, run="


def test_an_empty_value_is_told_where_there_is_a_default():
    _, problems = options.read("serve", ["port=", "run="], {"port": "0", "run": ""})
    assert [problem.what for problem in problems] == ["port= has no value"]


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    assert not options.output("out", "") and not options.output("out", str(tmp_path / "new" / "a.json"))
    assert "is a folder" in options.output("out", str(tmp_path))[0].what
    assert f"{tmp_path}/file is a file" in options.output("out", str(tmp_path / "file" / "a.json"))[0].what
