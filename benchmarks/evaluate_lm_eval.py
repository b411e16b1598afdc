"""The peer of benchmarks/evaluate.py: one task of lm-evaluation-harness with vLLM; prints its answers and seconds as JSON.

Usage: evaluate_lm_eval.py MODEL QUESTIONS.jsonl MAX_TOKENS. Timed is its `generate_until`: tokenizing and generating.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> None:
    import lm_eval
    from lm_eval.models.vllm_causallms import VLLM

    model, questions, max_tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
    written: list[str] = []
    seconds = 0.0

    class Timed(VLLM):  # type: ignore[misc]
        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            nonlocal seconds
            started = time.monotonic()
            said = super().generate_until(requests, disable_tqdm)
            seconds = time.monotonic() - started
            written.extend(said)
            return said

    engine = Timed(pretrained=model, dtype="float32", batch_size="auto", max_model_len=1024, enforce_eager=True, seed=0)
    task = {
        "task": "own", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": questions}}, "test_split": "test",
        "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": max_tokens},
        "metric_list": [{"metric": "exact_match"}],
    }  # fmt: skip
    lm_eval.simple_evaluate(model=engine, tasks=[task], apply_chat_template=True, log_samples=True, bootstrap_iters=0)
    print(json.dumps({"texts": written, "seconds": seconds}))


if __name__ == "__main__":
    main()
