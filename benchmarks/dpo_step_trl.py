"""The peer's side of dpo_step.py, run in the peer's environment; prints each step's seconds as JSON.

Arguments: MODEL PARQUET STEPS PAIRS MICRO_BATCH PRECISION REFERENCE, of which the last is `held` or `precomputed`.
"""

import json
import sys
from functools import partial

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl_clock import Clock


def main() -> None:
    model, parquet, steps, pairs, micro_batch, precision, reference = sys.argv[1:]
    precompute = reference == "precomputed"
    config = DPOConfig(
        output_dir="trl", max_steps=int(steps), per_device_train_batch_size=int(micro_batch),
        gradient_accumulation_steps=int(pairs) // int(micro_batch), loss_type=["sigmoid"], beta=0.1, learning_rate=5e-7,
        lr_scheduler_type="constant", gradient_checkpointing=False, bf16=precision == "bf16", use_cpu=True,
        precompute_ref_log_probs=precompute, save_strategy="no", report_to=[], logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    clock = Clock()
    load = partial(AutoModelForCausalLM.from_pretrained, model, dtype=torch.float32)  # the file has bfloat16
    trainer = DPOTrainer(
        model=load(), args=config, ref_model=None if precompute else load(),
        train_dataset=load_dataset("parquet", data_files=parquet, split="train"),
        processing_class=AutoTokenizer.from_pretrained(model), callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    print(json.dumps(clock.seconds))


if __name__ == "__main__":
    main()
