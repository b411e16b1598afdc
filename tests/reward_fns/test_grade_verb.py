"""`python -m posttrain_verl.grade`."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from posttrain_verl import grade
from posttrain_verl.terminal import command_line
from posttrain_verl.verbs import Grade

ROWS = [
    {"data_source": "openai/gsm8k", "response": "#### 72", "ground_truth": "72"},
    {"data_source": "openai/gsm8k", "response": "The answer is 72.", "ground_truth": "72"},
    {"data_source": "openai/gsm8k", "response": "no idea", "ground_truth": "72"},
    {"data_source": "math", "response": r"\boxed{\prod_{k=1}^{3} 9^{9^{9^9}}}", "ground_truth": "5"},
]


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "completions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def sums(capsys):
    return json.loads(capsys.readouterr().out)["sources"]


def test_counts_of_every_key_by_source(jsonl, capsys):
    assert command_line.main(Grade, grade.run, [str(jsonl), "timeout=0.5", "--json"]) == 0
    assert sums(capsys) == {
        "openai/gsm8k": {"rows": 3, "score": 2, "acc": 2, "format": 1, "answered": 2, "verifier_error": 0},
        "math": {"rows": 1, "score": 0, "acc": 0, "format": 1, "answered": 1, "verifier_error": 1},
    }


def test_parquet_with_verls_own_fields(tmp_path, capsys):
    rows = [{"data_source": "math", "response": r"\boxed{5}", "reward_model": {"style": "rule", "ground_truth": "5"}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert command_line.main(Grade, grade.run, [str(tmp_path / "a.parquet"), "--json"]) == 0
    assert sums(capsys)["math"]["score"] == 1


def test_options_and_the_file_of_grades(jsonl, tmp_path, capsys):
    out = tmp_path / "graded.jsonl"
    assert (
        command_line.main(
            Grade, grade.run, [str(jsonl), "mode=strict", "timeout=0.5", f"posttrain.out={out}", "--json"]
        )
        == 0
    )
    assert sums(capsys)["openai/gsm8k"]["acc"] == 1
    assert [json.loads(line)["row"] for line in out.read_text().splitlines()] == [1, 2, 3, 4]


def test_disagreements(jsonl, capsys):
    assert command_line.main(Grade, grade.run, [str(jsonl), "--compare", "timeout=0.5"]) == 0
    printed = capsys.readouterr().out
    assert "disagreements" in printed and "openai/gsm8k" in printed


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (None, "is not a file"),
        ("", "no rows"),
        ("{not json}\n", "row 1"),
        ('{"data_source": "math", "response": "1"}\n', "lacks ground_truth"),
        ('{"data_source": "nothing/known", "response": "1", "ground_truth": "1"}\n', "data_source 'nothing/known'"),
        ('{"data_source": "math", "response": "1", "ground_truth": ""}\n', "gold answer is empty"),
        ('{"data_source": "mbpp", "response": "1", "ground_truth": "{}"}\n', "schema"),
    ],
)
def test_wrong_input_is_said_without_a_traceback(tmp_path, capsys, content, seen):
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_text(content)
    assert command_line.main(Grade, grade.run, [str(path)]) == 2
    assert seen in capsys.readouterr().err


BROKEN = [
    {"data_source": "math", "response": "1", "ground_truth": "", "id": "empty"},
    {"data_source": "math", "response": [{"role": "assistant", "content": "1"}], "ground_truth": "1"},
    {"data_source": "math", "response": "1", "ground_truth": ["1", "one"], "extra_info": {"index": 7}},
    {"data_source": "nothing/known", "response": "1", "ground_truth": "1"},
    {"data_source": 3, "response": "1", "ground_truth": "1"},
    {"data_source": "math", "response": "1", "ground_truth": float("nan")},
    {"data_source": "math", "response": "1"},
    {"data_source": "math", "response": None, "ground_truth": "1"},
    {"data_source": "mbpp", "response": "1", "ground_truth": "{}"},
    {"data_source": "code", "response": "x",
     "ground_truth": json.dumps([{"input": "1", "output": "[1", "testtype": "functional"}])},
]  # fmt: skip
REASONS = [
    "the gold answer is empty",
    "response is list, not a text",
    "ground_truth is ['1', 'one'] (list), not a text or a number",
    "no reward is registered for data_source 'nothing/known'",
    "data_source is int, not a text",
    "ground_truth is nan (float)",
    "lacks ground_truth",
    "response is null",
    "the tests have the keys []",
    "functional tests without the name of a function",
    "is not JSON",
    "is list, not an object",
]


def test_rows_that_cannot_be_graded_are_named_and_the_rest_is_graded(tmp_path, capsys):
    path, out = tmp_path / "a.jsonl", tmp_path / "graded.jsonl"
    lines = [json.dumps(row) for row in [ROWS[0], *BROKEN, ROWS[1]]]
    path.write_text("\n".join([*lines, "{oops", "[1]", ""]))
    assert command_line.main(Grade, grade.run, [str(path), "--json", f"posttrain.out={out}"]) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["sources"]["openai/gsm8k"]["rows"] == found["sources"]["openai/gsm8k"]["acc"] == 2
    assert [each["row"] for each in found["ungraded"]] == [*range(2, 12), 13, 14]
    for each, reason in zip(found["ungraded"], REASONS, strict=True):
        assert reason in each["reason"]
    assert (
        "12 of 14 rows" in printed.err
        and "row 2 (empty): the gold" in printed.err
        and "row 4 (7): ground_truth" in printed.err
    )
    assert [json.loads(line)["row"] for line in out.read_text().splitlines()] == [1, 12]


def test_many_rows_of_one_reason_are_one_problem(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*[BROKEN[0]] * 30, ROWS[0]]))
    assert command_line.main(Grade, grade.run, [str(path)]) == 1
    assert "(1 problem)" in (said := capsys.readouterr().err) and "and 10 more: the gold answer is empty" in said


def test_tests_of_code_may_be_data(tmp_path, capsys):
    """As Parquet holds them; only a golden answer of mathematics is one text."""
    row = {
        "data_source": "code",
        "response": "```python\nprint(input())\n```",
        "ground_truth": {"inputs": ["1\n"], "outputs": ["1\n"]},
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert command_line.main(Grade, grade.run, [str(tmp_path / "a.jsonl"), "--json"]) == 0
    assert sums(capsys)["code"]["rows"] == 1


@pytest.mark.parametrize(
    "word", ["mood=strict", "mode=strickt", "mode=", "timeout=abc", "timeout=0", "timeout={", "partial=maybe"]
)
def test_wrong_options_are_said(jsonl, capsys, word):
    assert command_line.main(Grade, grade.run, [str(jsonl), word]) == 2
    assert word.partition("=")[0] in capsys.readouterr().err
    assert command_line.main(Grade, grade.run, [str(jsonl), "strict"]) == 2
    assert "option=value" in capsys.readouterr().err
