"""The demo of DPO with its own model: pairs of the SFT model's answers make it better on the held-out questions."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3000)]


def test_dpo_is_better_than_the_sft_it_begins_at(tmp_path, shared):
    command = [sys.executable, "-m", "posttrain_verl.pipeline", "recipe=demo_dpo",
               f"posttrain.runs_dir={tmp_path}/runs", f"posttrain.data_dir={tmp_path}/data"]  # fmt: skip
    ended = subprocess.run(
        command, env={**os.environ, **shared}, capture_output=True, text=True, timeout=2900, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    home = tmp_path / "runs/pipeline/demo_dpo/seed1"
    stages = json.loads((home / "pipeline.json").read_text())["stages"]
    assert {stage["state"] for stage in stages} == {"done"}
    compare = [
        sys.executable,
        "-m",
        "posttrain_verl.compare",
        str(home / "eval/sft-test.json"),
        str(home / "eval/dpo-test.json"),
        "--json",
    ]
    (pair,) = json.loads(subprocess.run(compare, capture_output=True, text=True, check=True).stdout)["comparisons"]
    assert pair["difference"] > 0 and pair["p"] < 0.05, pair
    settings = (home / "runs/demo_dpo/0/config.yaml").read_text()
    assert str(home / "synthesized/synthesize/pairs_train.parquet") in settings
