"""Shared fixtures: the generator of clean rows, and a builder of small mixes from rows."""

import importlib.util
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import data_prep

_spec = importlib.util.spec_from_file_location("clean_rows", Path(__file__).with_name("clean_rows.py"))
clean_rows = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(clean_rows)

COLUMNS = {"question": "question", "answer": "answer", "solution": "solution"}


@pytest.fixture
def clean():
    return clean_rows.clean


@pytest.fixture
def jsonl(tmp_path):
    def write(name: str, rows: list) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def source(jsonl):
    """A `columns` source of given rows."""

    def make(name: str, rows: list, **options) -> dict:
        return {"from": "columns", "path": jsonl(name, rows), "columns": COLUMNS, "data_source": "math/own"} | options

    return make


@pytest.fixture
def build(tmp_path):
    """Build a mix; returns (manifest, read) where read(split) gives the rows of a split."""

    def make(**config):
        out = tmp_path / "built"
        return data_prep.build(config, out), lambda split: pq.read_table(out / f"{split}.parquet").to_pylist()

    return make
