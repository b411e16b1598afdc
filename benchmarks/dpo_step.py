"""Seconds of a DPO step against TRL's DPOTrainer on the same pairs: `python benchmarks/dpo_step.py [STEPS] [fp32|bf16]`.

SmolLM2-135M, 16 pairs of 2 x 128 tokens a step, in micro batches of 4 pairs on both sides, sigmoid loss, full fine-tuning,
no recomputation of activations. TRL runs twice: as it is by default, with the reference model in each step, and with
`precompute_ref_log_probs`, as ours. bf16 (autocast over fp32 weights, on both sides) is for CPUs with AVX-512 BF16 or AMX.
The peer is installed into an environment of its own (benchmarks/.peers/trl-dpo) at the first call.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from peers import ensure_environment

from posttrain_verl import base_models
from posttrain_verl.run.output import MetricsTail

REQUIREMENTS = ["trl==1.16.0", "transformers==5.10.4", "peft", "datasets", "accelerate", "torch==2.13.0+cpu"]
PAIRS, MICRO_BATCH, TOKENS = 16, 4, 128
WORDS = (
    " one two three four five six seven eight nine ten red blue green black white"  # each is one token with its space
)
OURS = ["recipe=math_dpo", "base_model=smollm2_135m", "mix=embedded", "preference.loss=sigmoid", "preference.beta=0.1",
        f"data.train_batch_size={PAIRS}", f"data.micro_batch_size_per_gpu={MICRO_BATCH}", "data.use_dynamic_bsz=false",
        f"data.max_length={2 * TOKENS}", "model.enable_gradient_checkpointing=false", "optim.lr_scheduler_type=constant",
        "trainer.save_freq=-1", "trainer.test_freq=-1"]  # fmt: skip


def write_pairs(model: Path, steps: int, file: Path) -> None:
    """Pairs whose sequences have TOKENS tokens each under the template of the model."""
    from transformers import AutoTokenizer

    tokenizer, drawn = AutoTokenizer.from_pretrained(model), random.Random(0)
    words = WORDS.split()

    def make_answer(question: dict[str, str]) -> list[dict[str, str]]:
        text, length = "", 0
        while length < TOKENS:
            text = f"{text} {drawn.choice(words)}".strip()
            turns = [question, {"role": "assistant", "content": text}]
            length = len(tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"])
        assert length == TOKENS, "each word is a token"
        return turns[1:]

    rows: list[dict[str, Any]] = []
    for number in range(PAIRS * steps):
        question = {"role": "user", "content": f"Write words, please: {number + 1000}"}
        rows.append({"prompt": [question], "chosen": make_answer(question), "rejected": make_answer(question)})
    pq.write_table(pa.Table.from_pylist(rows), file)


def run_ours(folder: Path, file: Path, steps: int, precision: str) -> list[float]:
    """Seconds of each step but the first."""
    words = [*OURS, f"data.train_files={file}", "data.val_files=null", f"posttrain.runs_dir={folder}/runs",
             "posttrain.run_id=0", f"trainer.total_training_steps={steps}", "trainer.total_epochs=1"]  # fmt: skip
    if precision == "bf16":
        words.append("engine.mixed_precision.param_dtype=bf16")
    done = subprocess.run([sys.executable, "-m", "posttrain_verl.launch", *words], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stdout)
    return [data["timing_s/step"] for _, data in MetricsTail(folder / "runs/math_dpo/0/metrics.jsonl").read()][1:]


def run_trl(folder: Path, file: Path, steps: int, precision: str, reference: str) -> list[float]:
    """The same with TRL, whose reference is `held` in memory or `precomputed`."""
    python = ensure_environment("trl-dpo", REQUIREMENTS)
    arguments = [
        base_models.ensure_model("smollm2_135m"),
        file,
        str(steps),
        str(PAIRS),
        str(MICRO_BATCH),
        precision,
        reference,
    ]
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, Path(__file__).with_name("dpo_step_trl.py"), *arguments], cwd=folder, text=True,
                          env=variables | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.PIPE, check=True)  # fmt: skip
    return list(json.loads(done.stdout.splitlines()[-1])[1:])


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    precision = sys.argv[2] if len(sys.argv) > 2 else "fp32"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "pairs.parquet"
        write_pairs(base_models.ensure_model("smollm2_135m"), steps, file)
        mine = statistics.median(run_ours(folder, file, steps, precision))
        for reference in ("held", "precomputed"):
            theirs = statistics.median(run_trl(folder, file, steps, precision, reference))
            print(f"{precision}: posttrain_verl {mine:.2f} s a step, TRL with its reference {reference} {theirs:.2f} s, "
                  f"ratio {mine / theirs:.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
