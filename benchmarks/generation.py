"""Tokens a second of vLLM on the CPU with weights that can be updated: `python benchmarks/generation.py [RUNS]`.

The peer is vLLM as it comes, which packs its weights once and drops them.
32 sequences of 96 tokens of SmolLM2-135M, sampled without seeds as rollouts are, each side in a process of its own, in turn.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

SEQUENCES, TOKENS = 32, 96


def generate() -> None:
    """One side, in this process: prints tokens a second of the second of two rounds."""
    from vllm import LLM, SamplingParams

    from posttrain_verl import base_models

    engine = LLM(str(base_models.ensure_model("smollm2_135m")), dtype="float32", enforce_eager=True, max_model_len=512,
                 enable_prefix_caching=False, disable_log_stats=True)  # fmt: skip
    sampling = SamplingParams(temperature=1.0, max_tokens=TOKENS, ignore_eos=True)
    prompts = [f"Tell me about the number {number}." for number in range(SEQUENCES)]
    engine.generate(prompts, sampling, use_tqdm=False)
    started = time.monotonic()
    engine.generate(prompts, sampling, use_tqdm=False)
    print(f"tokens/s {SEQUENCES * TOKENS / (time.monotonic() - started):.1f}")


def measured(updatable: bool) -> float:
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    environment.pop("VERL_PLATFORM", None)
    if updatable:
        environment["VERL_PLATFORM"] = "cpu"
    output = subprocess.run(
        [sys.executable, __file__, "--side"], env=environment, capture_output=True, text=True, check=True
    )
    return float(next(line for line in output.stdout.splitlines() if line.startswith("tokens/s")).split()[1])


def main() -> None:
    if sys.argv[1:] == ["--side"]:
        generate()
        return
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    pairs = [(measured(True), measured(False)) for _ in range(runs)]
    ours, packed = (statistics.median(values) for values in zip(*pairs, strict=True))
    print(
        f"updatable weights {ours:.0f} tokens/s, packed only {packed:.0f} tokens/s, ratio {ours / packed:.2f} ({runs} runs)"
    )


if __name__ == "__main__":
    main()
