"""The peer's side of grpo_step.py, run in the peer's environment: MODEL PARQUET STEPS PRECISION; prints each step's seconds."""

import json
import sys

from datasets import load_dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
from trl_clock import Clock

TOKENS = 96


def ends_right(completions: list[list[dict[str, str]]], gold: list[str], **_: object) -> list[float]:
    return [
        float(answer[-1]["content"].strip().endswith(right)) for answer, right in zip(completions, gold, strict=True)
    ]


def main() -> None:
    model, parquet, steps, precision = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    rows = load_dataset("parquet", data_files=parquet, split="train")
    rows = rows.map(lambda row: {"gold": row["reward_model"]["ground_truth"]}).select_columns(["prompt", "gold"])
    clock = Clock()
    config = GRPOConfig(
        output_dir="trl", max_steps=steps, per_device_train_batch_size=32, num_generations=4, steps_per_generation=1,
        max_completion_length=TOKENS, generation_kwargs={"min_new_tokens": TOKENS}, temperature=1.0, beta=0.0,
        learning_rate=1e-6, gradient_checkpointing=False, bf16=precision == "bf16", use_cpu=True, save_strategy="no",
        report_to=[], logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = GRPOTrainer(model=model, processing_class=AutoTokenizer.from_pretrained(model), reward_funcs=ends_right,
                          args=config, train_dataset=rows, callbacks=[clock])  # fmt: skip
    trainer.train()
    print(json.dumps(clock.seconds))


if __name__ == "__main__":
    main()
