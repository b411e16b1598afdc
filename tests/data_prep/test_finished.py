"""When a build is finished: of the same mix, whatever defaults it spells out, and of source files that are as they were."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from data_prep.builder import build
from data_prep.finished import changed_sources, describe_difference, is_complete

PLAIN = {
    "name": "mine",
    "sources": {"rows": {"from": "columns", "path": "rows*.jsonl", "columns": {"question": "q", "answer": "a"},
                         "data_source": "math/mine"}},
    "splits": {"rl_train": {"rows": "all", "sources": {"rows": 1}}},
}  # fmt: skip


def write_rows(name: str = "rows.jsonl", count: int = 30, first: int = 0) -> None:
    lines = [json.dumps({"q": f"What is {n} + {n}?", "a": str(2 * n)}) for n in range(first, first + count)]
    with open(name, "w") as file:
        file.write("\n".join(lines))


@pytest.fixture
def built(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows()
    build(PLAIN, tmp_path / "data")
    assert is_complete(tmp_path / "data", PLAIN)
    return tmp_path / "data"


def test_a_source_that_was_cut(built):
    write_rows(count=20)
    os.utime("rows.jsonl", (0, 0))  # as `cp -p` leaves it
    assert changed_sources(built, PLAIN) == ["rows.jsonl changed"] and not is_complete(built, PLAIN)


def test_a_source_of_the_same_size_with_other_rows(built):
    file = Path("rows.jsonl")
    file.write_text(file.read_text().replace("What is 5 ", "What is 6 "))
    os.utime("rows.jsonl", (time.time() + 5, time.time() + 5))
    assert changed_sources(built, PLAIN) == ["rows.jsonl changed"]


def test_a_file_that_the_pattern_now_finds_too(built):
    write_rows("rows-2.jsonl")
    assert changed_sources(built, PLAIN) == ["rows-2.jsonl is new"]


def test_sources_that_were_touched_moved_or_deleted(built, tmp_path):
    os.utime("rows.jsonl", (time.time() + 5, time.time() + 5))
    assert is_complete(built, PLAIN)
    copy = shutil.copytree(built, tmp_path / "elsewhere")
    os.remove("rows.jsonl")
    assert is_complete(built, PLAIN) and is_complete(copy, PLAIN)


def test_a_default_that_is_spelled_out_is_no_other_mix(built):
    assert is_complete(built, PLAIN | {"seed": 0}) and describe_difference(built, PLAIN | {"seed": 0}) == ""
    assert is_complete(built, PLAIN | {"limit": None, "filters": {}})
    assert not is_complete(built, PLAIN | {"seed": 3}) and describe_difference(built, PLAIN | {"seed": 3}) == "no seed"
    assert not is_complete(built, PLAIN | {"decontaminate": {"drop": None}}), "null switches dropping off"
