"""Reward files as users write them, and data of a source that none of our graders is for."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import schema

PARTIAL = """
import re


def score(data_source, solution_str, ground_truth, extra_info=None, partial=0.1):
    found = re.findall(r"-?\\d+", solution_str)
    return 0.0 if not found else 1.0 if found[-1] == ground_truth else partial
"""
SOURCE = "my/subtraction"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with my_reward.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_reward.py").write_text(PARTIAL)
    return tmp_path


@pytest.fixture
def reward_file(here):
    """`reward_file(body, name)` writes a file with the function compute_score, or the lines themselves where they define one."""

    def write(body: str, name: str = "other_reward") -> Path:
        signature = "def compute_score(data_source, solution_str, ground_truth, extra_info=None):"
        head = "" if "compute_score" in body else f"{signature}\n    "
        file = here / f"{name}.py"
        file.write_text(head + body + "\n")
        return file

    return write


def subtraction(number: int) -> dict:
    return {
        "data_source": SOURCE, "prompt": [{"role": "user", "content": f"{90 + number}-{10 + 2 * number}="}], "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(80 - number)},
        "extra_info": {"split": "test", "index": number, "id": f"sum/{number}", "source": "sums", "difficulty": 1.0,
                       "stage": None, "answer_mark": "hashes"},
    }  # fmt: skip


@pytest.fixture
def rows(here):
    """`rows(n)` writes n rows in the RL schema, `rows(n, change)` after a change to each."""

    def write(count: int = 64, change=lambda row: row, name: str = "rows") -> Path:
        file = here / f"{name}.parquet"
        pq.write_table(
            pa.Table.from_pylist([change(subtraction(n)) for n in range(count)], schema=schema.RL.schema), file
        )
        return file

    return write


@pytest.fixture
def questions(here):
    """Rows that `prep` reads."""
    lines = [json.dumps({"q": f"What is {90 + n} - {10 + 2 * n}?", "a": str(80 - n)}) for n in range(60)]
    (here / "rows.jsonl").write_text("\n".join(lines))
    return here / "rows.jsonl"
