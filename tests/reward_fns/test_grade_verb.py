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
    assert command_line.main(Grade, grade.run, [str(jsonl), "limit=0.5", "--json"]) == 0
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
        command_line.main(Grade, grade.run, [str(jsonl), "mode=strict", "limit=0.5", f"posttrain.out={out}", "--json"])
        == 0
    )
    assert sums(capsys)["openai/gsm8k"]["acc"] == 1
    assert [json.loads(line)["row"] for line in out.read_text().splitlines()] == [1, 2, 3, 4]


def test_disagreements(jsonl, capsys):
    assert command_line.main(Grade, grade.run, [str(jsonl), "--compare", "limit=0.5"]) == 0
    printed = capsys.readouterr().out
    assert "disagreements" in printed and "openai/gsm8k" in printed


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (None, "is not a file"),
        ("", "no rows"),
        ("{not json}\n", "row 1"),
        ('{"data_source": "math", "response": "1"}\n', "lacks ground_truth"),
        ('{"data_source": "nothing/known", "response": "1", "ground_truth": "1"}\n', "'nothing/known' has no reward"),
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


@pytest.mark.parametrize(
    "word", ["mood=strict", "mode=strickt", "mode=", "limit=abc", "limit=0", "limit={", "partial=maybe"]
)
def test_wrong_options_are_said(jsonl, capsys, word):
    assert command_line.main(Grade, grade.run, [str(jsonl), word]) == 2
    assert word.partition("=")[0] in capsys.readouterr().err
    assert command_line.main(Grade, grade.run, [str(jsonl), "strict"]) == 2
    assert "option=value" in capsys.readouterr().err
