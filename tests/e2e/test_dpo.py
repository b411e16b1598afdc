"""Preference optimization on VeRL's engine: pairs are learned, the reference is taken once, and a run resumes without a gap."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.schema import PAIRS
from posttrain_verl.export.weights import ensure_weights, result_step

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
STEPS = 24
SAME = ("train/loss", "train/margin", "train/chosen_logp", "train/global_tokens", "train/lr")


def write_pairs(folder: Path) -> list[str]:
    """Sums with their result and with another number; returns the overrides that name the files."""
    drawn, rows = random.Random(1), []
    for _ in range(180):
        first, second = drawn.randint(1, 49), drawn.randint(1, 49)
        right, wrong = first + second, first + second + drawn.randint(1, 9)
        answers = {side: [{"role": "assistant", "content": f"{name} {value}"}] for side, name, value in
                   (("chosen", "sum", right), ("rejected", "not", wrong))}  # fmt: skip
        more = {"data_source": "embedded/chain_sum", "ability": "math", "extra_info": {"id": f"{first}+{second}"}}
        rows.append({"prompt": [{"role": "user", "content": f"{first}+{second}="}], **answers, **more})
    parts = {"train": rows[20:], "val": rows[:20]}
    for name, part in parts.items():
        pq.write_table(pa.Table.from_pylist(part, PAIRS.schema), folder / f"{name}.parquet")
    return [f"data.{name}_files={folder / name}.parquet" for name in parts]


def test_pairs_are_learned_and_a_run_resumes_without_a_gap(launch, tmp_path):
    given = [*write_pairs(tmp_path), "base_model=nano_2m", "optim.lr=1e-3", "preference.nll_weight=0",
             f"trainer.total_training_steps={STEPS}", "trainer.save_freq=12", "trainer.test_freq=12"]  # fmt: skip
    first = launch("demo_dpo", *given)
    first.assert_done(list(range(1, STEPS + 1)))
    begun, ended = first.metrics[1], first.metrics[STEPS]
    assert begun["train/margin"] == 0 and begun["train/loss"] == pytest.approx(0.6931, abs=1e-4), (
        "the model is the reference"
    )
    assert ended["train/loss"] < 0.5 and ended["train/margin"] > 0.3
    assert ended["val/accuracy"] > 0.9 and ended["val/margin"] > 0.3
    assert not [event for event in first.events if event["level"] == "stop"]

    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "reference").iterdir()}
    assert len(kept) == 2 and all(file.suffix == ".npy" for file in kept), "of training and of validation"
    checkpoint = first.folder.checkpoints / "global_step_12"
    resumed = launch("demo_dpo", *given, "trainer.resume_mode=resume_path", f"trainer.resume_from_path={checkpoint}")
    resumed.assert_done(list(range(13, STEPS + 1)))
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "reference").iterdir()} == kept, "taken once"
    for step in range(13, STEPS + 1):
        for name in SAME:
            assert resumed.metrics[step][name] == pytest.approx(first.metrics[step][name], rel=1e-4), (
                f"{name} of step {step}"
            )

    measured = {step: json.loads((first.folder.shards(step) / "held_out.json").read_text()) for step in (12, STEPS)}
    assert measured[STEPS]["val/accuracy"] == ended["val/accuracy"]
    best = max(measured, key=lambda step: (measured[step]["val/accuracy"], step))
    assert result_step(first.folder) == best and ensure_weights(first.folder).is_dir()
