"""Seconds of a GRPO step against TRL's GRPOTrainer on the same work: `python benchmarks/grpo_step.py [STEPS] [fp32|bf16]`.

SmolLM2-135M, 8 prompts of the embedded mix x 4 rollouts of exactly 96 tokens, one optimizer step, no KL reference, and no
old log-probabilities of a batch that is trained on once (TRL leaves them out; `bypass_mode` takes the rollout's). bf16 (autocast
over fp32 weights, on both sides) is for CPUs with AVX-512 BF16 or AMX. The peer is installed into an environment of its own
(benchmarks/.peers/trl) at the first call.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from peers import ensure_environment

from posttrain_verl import base_models
from posttrain_verl.run.output import MetricsTail

REQUIREMENTS = ["trl==1.16.0", "transformers==5.10.4", "datasets", "accelerate", "torch==2.13.0+cpu"]
OURS = ["recipe=math_grpo", "base_model=smollm2_135m", "mix=embedded", "data.train_batch_size=8",
        "actor_rollout_ref.rollout.n=4", "actor_rollout_ref.actor.ppo_mini_batch_size=8",
        "actor_rollout_ref.actor.use_kl_loss=false", "data.max_response_length=96",
        "algorithm.rollout_correction.bypass_mode=true", "actor_rollout_ref.rollout.ignore_eos=true",
        "trainer.save_freq=-1", "trainer.test_freq=-1"]  # fmt: skip


OURS_IN_BF16 = ["actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=bf16",
                "actor_rollout_ref.rollout.dtype=bfloat16"]  # fmt: skip


def ours(folder: Path, steps: int, precision: str) -> list[float]:
    """Seconds of each step but the first, and the parts of the last one on the way."""
    given = [*OURS, *OURS_IN_BF16] if precision == "bf16" else OURS
    words = [*given, f"posttrain.runs_dir={folder}/runs", f"posttrain.data_dir={folder}/data", "posttrain.run_id=0",
             f"trainer.total_training_steps={steps}"]  # fmt: skip
    subprocess.run([sys.executable, "-m", "posttrain_verl.launch", *words], check=True)
    records = [data for _, data in MetricsTail(folder / "runs/math_grpo/0/metrics.jsonl").read()]
    parts = {
        key.removeprefix("timing_s/"): round(value, 2)
        for key, value in records[-1].items()
        if key.startswith("timing_s/")
    }
    print(f"  parts of our last step, seconds: {parts}")
    return [data["timing_s/step"] for data in records[1:]]


def trl(folder: Path, steps: int, precision: str) -> list[float]:
    """The same with TRL's GRPOTrainer, in its own environment."""
    python = ensure_environment("trl", REQUIREMENTS)
    side = Path(__file__).with_name("grpo_step_trl.py")
    arguments = [
        str(base_models.ensure_model("smollm2_135m")),
        str(folder / "data/embedded/rl_train.parquet"),
        str(steps),
        precision,
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    output = subprocess.run([python, side, *arguments], cwd=folder, env=environment, check=True,
                            capture_output=True, text=True)  # fmt: skip
    return json.loads(output.stdout.splitlines()[-1])[1:]


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    precision = sys.argv[2] if len(sys.argv) > 2 else "fp32"
    with tempfile.TemporaryDirectory() as folder:
        mine, peer = ours(Path(folder), steps, precision), trl(Path(folder), steps, precision)
    print(f"{precision}: posttrain_verl {statistics.median(mine):.1f} s a step, TRL {statistics.median(peer):.1f} s a step, "
          f"ratio {statistics.median(mine) / statistics.median(peer):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
