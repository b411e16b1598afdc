"""A process of the short mode as it is started: real training steps of VeRL's worker, with the model `tiny` on the CPU."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from posttrain_verl.first_gpu_hour import modes
from posttrain_verl.machine.devices import Machine

ROOT = Path(__file__).resolve().parents[2]


def run_part(name: str, home: Path, **changes) -> dict:
    """What the process of a part measured, its order changed where `changes` say so."""
    part = next(each for each in modes.short_parts(["tiny"], home, Machine("cpu", "a test"), {}) if each.name == name)
    order = Path(part.command[-1])
    order.write_text(json.dumps(json.loads(order.read_text()) | changes))
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(part.command, cwd=home, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((home / f"{part.stem}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SFT, tiny", "LoRA, tiny"])
def test_a_process_trains(name, tmp_path):
    batches = [{"fill": 0.25, "micro_batches": 1}, {"fill": 1.0, "micro_batches": 3}]
    measured = run_part(name, tmp_path, batches=batches)
    assert measured["attention"] == "varlen" and measured["strategy"] == "fsdp2"
    first, second = measured["steps"]
    assert (first["largest"], first["micro_batches"]) == (128, 1)
    assert second["largest"] <= 512 and second["micro_batches"] >= 3, "rows of any length do not fill each exactly"
    assert all(5 < step["loss"] < 6 and step["grad_norm"] > 0 for step in measured["steps"]), "about ln 259"


@pytest.mark.slow
def test_a_process_compares_rows(tmp_path):
    rows = run_part("attention, tiny", tmp_path)["rows"]
    assert rows["packed_against_padded_sdpa"] < 1e-4 < rows["run_together"]
