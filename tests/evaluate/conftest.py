"""A set of sums, a folder that passes for a model, and an engine that needs neither vLLM nor a model."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import schema


@pytest.fixture
def sums(tmp_path):
    """`sums(n)` writes n questions into a Parquet in the RL schema."""

    def write(n: int, name: str = "sums") -> Path:
        rows = [
            {"data_source": "embedded/sums", "prompt": [{"role": "user", "content": f"{10 + n}+{20 + n}="}],
             "ability": "math", "reward_model": {"style": "rule", "ground_truth": str(30 + 2 * n)},
             "extra_info": {"split": "test", "index": n, "id": f"sum/{n}", "source": "sums",
                            "difficulty": float(n % 3), "stage": None}}
            for n in range(n)
        ]  # fmt: skip
        file = tmp_path / name / "test.parquet"
        file.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema.RL.schema), file)
        return file

    return write


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Engines are fakes from here on; returns what they were asked, as lists of (pid, id, samples)."""
    python, log = tmp_path / "python", tmp_path / "asked.jsonl"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("fake_engine.py")}"\n')
    python.chmod(0o755)
    monkeypatch.setenv("POSTTRAIN_WARM_PYTHON", str(python))
    monkeypatch.setenv("FAKE_LOG", str(log))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def asked() -> list:
        return [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []

    return asked
