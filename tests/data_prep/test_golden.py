"""A mix over committed rows gives the committed rows, word for word: any change of choice, order or text shows here.

After a wanted change: `python tests/data_prep/test_golden.py` writes golden/expected.json again; read the difference.
"""

import json
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import yaml

import data_prep

GOLDEN = Path(__file__).with_name("golden")


def build() -> dict:
    config = yaml.safe_load((GOLDEN / "mix.yaml").read_text())
    config["sources"]["rows"]["path"] = str(GOLDEN / "rows.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        data_prep.build(config, Path(folder))
        return {name: pq.read_table(Path(folder) / f"{name}.parquet").to_pylist() for name in config["splits"]}


def test_golden_mix():
    assert build() == json.loads((GOLDEN / "expected.json").read_text())


if __name__ == "__main__":
    (GOLDEN / "expected.json").write_text(json.dumps(build(), indent=1) + "\n")
