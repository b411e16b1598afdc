"""The embedded mix: made offline, the same bytes twice, and no held-out question is trained on."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

import data_prep

MIX = Path(__file__).parents[2] / "conf" / "mix" / "embedded.yaml"


@pytest.fixture(scope="module")
def config() -> dict:
    return yaml.safe_load(MIX.read_text())


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("embedded")
    data_prep.build(config, out)
    return out


def rows(folder: Path, split: str) -> list[dict]:
    return pq.read_table(folder / f"{split}.parquet").to_pylist()


def question(row: dict) -> str:
    return (row.get("prompt") or row["messages"])[0]["content"]


def test_row_counts_are_those_of_the_mix(folder, config):
    for split, wanted in config["splits"].items():
        assert len(rows(folder, split)) == wanted["rows"]


def test_no_question_is_in_two_splits(folder, config):
    questions = [question(row) for split in config["splits"] for row in rows(folder, split)]
    assert len(questions) == len(set(questions))


def test_gold_and_worked_solution_are_right(folder):
    for row in rows(folder, "test"):
        left, right = map(int, re.fullmatch(r"(\d+)\+(\d+)=", question(row)).groups())
        assert row["reward_model"] == {"style": "rule", "ground_truth": str(left + right)}
    for row in rows(folder, "sft_train"):
        left, right = map(int, re.fullmatch(r"(\d+)\+(\d+)=", question(row)).groups())
        *steps, last = row["messages"][1]["content"].split("\n")
        assert last == f"#### {left + right}"
        for step in steps:
            terms, total = step.split("=")
            assert sum(map(int, terms.split("+"))) == int(total)


def test_building_twice_gives_the_same_bytes(folder, config, tmp_path):
    again = data_prep.build(config, tmp_path)
    assert again["files"] == data_prep.read_manifest(folder)["files"]


def test_a_complete_folder_is_known_by_its_manifest_and_mix(folder, config):
    assert data_prep.is_complete(folder, config)
    assert not data_prep.is_complete(folder, config | {"seed": 1})
    assert data_prep.verify(folder) == []


def test_an_unfinished_or_damaged_folder_is_not_complete(config, tmp_path):
    data_prep.build(config, tmp_path)
    damaged = tmp_path / "rl_train.parquet"
    content = bytearray(damaged.read_bytes())
    content[100] ^= 1
    damaged.write_bytes(content)
    assert "sha256" in str(data_prep.verify(tmp_path)[0])
    damaged.unlink()
    assert not data_prep.is_complete(tmp_path, config)
    (tmp_path / "manifest.json").unlink()
    assert not data_prep.is_complete(tmp_path, config)
    with pytest.raises(data_prep.DataError, match="is missing"):
        data_prep.verify(tmp_path)


def test_a_failing_build_leaves_the_finished_one_alone(config, tmp_path):
    data_prep.build(config, tmp_path)
    greedy = config | {"splits": config["splits"] | {"sft_train": {"rows": 10**6, "sources": {"sums": 1}}}}
    with pytest.raises(data_prep.DataError, match=r"asks for 1000000 rows of sums; \d+ unused"):
        data_prep.build(greedy, tmp_path)
    assert data_prep.is_complete(tmp_path, config) and data_prep.verify(tmp_path) == []
