"""Own answers of a real engine: a pipeline of SFT, synthesize and SFT on both, with a reward that half of all answers pass."""

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

REWARD = """
def score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    right = float(len(solution_str) % 2)
    return {"score": right, "acc": right}
"""


def test_own_answers_are_trained_on(tmp_path, shared):
    """The tiny model answers at random, so that the filters of the mix are off."""
    (tmp_path / "reward.py").write_text(REWARD)
    small = [f"{name}:{key}" for name in ("sft", "rft") for key in ("trainer.total_training_steps=2", "trainer.save_freq=2",
             "trainer.test_freq=2", "data.train_batch_size=8", "data.micro_batch_size_per_gpu=8")]  # fmt: skip
    command = [sys.executable, "-m", "posttrain_verl.pipeline", "recipe=demo_rft", "base_model=tiny", "seed=3", "export=false",
               "report=false", f"posttrain.runs_dir={tmp_path}/runs", f"posttrain.data_dir={tmp_path}/data", *small,
               "posttrain.mix.filters.all=false", "evaluate:max_tokens=8", "evaluate:rows=32", "synthesize:max_tokens=16",
               "synthesize:rows=16", "synthesize:keep=2", "synthesize:pairs=1", "synthesize:match_lengths=false",
               f"synthesize:reward={tmp_path}/reward.py:score"]  # fmt: skip
    ended = subprocess.run(
        command, env={**os.environ, **shared}, capture_output=True, text=True, timeout=1100, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    home = tmp_path / "runs/pipeline/demo_rft/seed3"
    own, base = home / "synthesized/synthesize", tmp_path / "data/seed3/embedded"
    manifest = json.loads((own / "manifest.json").read_text())
    answers = manifest["answers"]
    assert answers["n"] == 64 and 0 < answers["right"] < 64 and answers["prompt_tokens"] > 64
    assert manifest["teacher"]["model"].startswith(str(home / "runs/demo_sft/0"))
    assert (
        all(entry["left_in"] == 0 for entry in manifest["overlap"].values()) and "embedded/test" in manifest["overlap"]
    )
    asked = {row["id"] for row in pq.read_table(own / "rates.parquet").to_pylist()}
    trained = pq.read_table(base / "rl_train.parquet")["extra_info"].to_pylist()
    assert len(asked) == 16 and asked <= {row["id"] for row in trained}
    for row in pq.read_table(own / "sft_train.parquet").to_pylist():
        assert len(row["messages"][-1]["content"]) % 2
    second = OmegaConf.load(home / "runs/demo_sft/1/config.yaml")
    assert list(second.data.train_files) == [str(base / "sft_train.parquet"), str(own / "sft_train.parquet")]
    assert "rft against sft" in " ".join(ended.stdout.split())
