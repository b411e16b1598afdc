"""How runs end that do not end well: the exit code, the last line, status.json, and nothing left running."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_a_reward_that_raises(launch):
    """In training; `check` calls it and refuses it."""
    reward = Path(__file__).with_name("raising_reward.py")
    run = launch("math_grpo", f"reward.custom_reward_function.path={reward}", "posttrain.skip=[rewards]")
    assert run.code == 1
    assert run.lines[-1] == f"failed: ValueError: this grader cannot grade; the log is {run.folder.log}"
    assert not any(line.startswith("Traceback") for line in run.lines)
    assert run.status.state == "failed"
    assert (run.folder.path / "ray_logs" / "raylet.out").is_file()
    assert not run.segments


def test_interrupted(launch):
    def trained_a_step(folder):
        return folder.metrics.exists() and folder.metrics.stat().st_size > 0

    run = launch("math_grpo", "trainer.total_training_steps=500", "trainer.save_freq=-1", at=trained_a_step)
    assert run.code == 130
    assert run.status.state == "interrupted"
    assert run.lines[-1].startswith("interrupted")
    assert not any(line.startswith("Traceback") for line in run.lines)
    assert not run.segments


def test_a_missing_column_is_found_before_anything_starts(launch, tmp_path):
    rows = tmp_path / "rows.parquet"
    pq.write_table(pq.read_table(_any_rows(tmp_path)).drop_columns(["prompt"]), rows)
    run = launch("math_grpo", f"data.train_files={rows}")
    assert run.code == 2
    assert "prompt" in "\n".join(run.lines)
    assert not any(line.startswith("Traceback") for line in run.lines)
    assert not run.folder.path.exists()


def _any_rows(folder: Path) -> Path:
    row = {
        "data_source": "embedded/chain_sum",
        "prompt": [{"role": "user", "content": "1+1="}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"split": "rl_train", "index": 0},
    }
    pq.write_table(pa.Table.from_pylist([row] * 16), folder / "whole.parquet")
    return folder / "whole.parquet"
