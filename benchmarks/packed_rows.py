"""What packed rows cost without flash-attn: `python benchmarks/packed_rows.py [tokens=8192] [sequences=16]`.

Each way runs in a process of its own, on a CUDA device where there is one. Prints seconds and peak memory of one forward
and backward pass: of one Qwen2 layer (width 896, 14 heads, 2 key heads) under each attention, and of the
log-probabilities under a vocabulary of 32,768, as VeRL 0.9.1 takes them without flash-attn and as we do.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ATTENTIONS = ("varlen", "sdpa", "flex_attention", "eager")
VOCABULARY = 32_768
MIB = 2**20


def attention_pass(name: str, tokens: int, sequences: int) -> Callable[[], None]:
    """One pass over a packed row through a layer under the attention `name`."""
    from transformers import Qwen2Config, Qwen2Model

    from posttrain_verl.verl import packed_rows

    packed_rows.register_varlen()
    config = Qwen2Config(vocab_size=64, hidden_size=896, intermediate_size=64, num_hidden_layers=1, num_attention_heads=14,
                         num_key_value_heads=2)  # fmt: skip
    config._attn_implementation = name
    model = Qwen2Model(config).to(DEVICE, torch.bfloat16)
    positions = torch.arange(tokens // sequences, device=DEVICE).repeat(sequences)[None]
    words = torch.zeros_like(positions)
    return lambda: model(input_ids=words, position_ids=positions, use_cache=False).last_hidden_state.sum().backward()


def log_probability_pass(name: str, tokens: int, sequences: int) -> Callable[[], None]:
    """One pass from logits of bf16 to the gradient of their log-probabilities."""
    from verl.utils.torch_functional import logprobs_from_logits_v2

    from posttrain_verl.verl.packed_rows import log_probabilities

    take = {"ours": log_probabilities, "VeRL's": logprobs_from_logits_v2}[name]
    hidden = torch.randn(tokens, 64, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    output = torch.randn(VOCABULARY, 64, device=DEVICE, dtype=torch.bfloat16)
    labels = torch.zeros(tokens, device=DEVICE, dtype=torch.long)
    return lambda: take(hidden @ output.T, labels).sum().backward()


PASSES = {"attention": attention_pass, "log-probabilities": log_probability_pass}


def measure(kind: str, name: str, tokens: int, sequences: int) -> tuple[float, float]:
    """Seconds of the second pass, and MiB at the peak above what was there before the first."""
    one_pass = PASSES[kind](name, tokens, sequences)
    before = _peak()
    for _ in range(2):
        start = time.perf_counter()
        one_pass()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - start, (_peak() - before) / MIB


def _peak() -> float:
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(words: list[str]) -> None:
    given = {"tokens": 8192, "sequences": 16} | {key: int(value) for key, value in (word.split("=") for word in words)}
    print(f"{given['tokens']} tokens in {given['sequences']} sequences, {DEVICE}, torch {torch.__version__}")
    ways = [("attention", name) for name in ATTENTIONS] + [("log-probabilities", name) for name in ("ours", "VeRL's")]
    for kind, name in ways:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            try:
                seconds, mib = pool.apply(measure, (kind, name, given["tokens"], given["sequences"]))
                print(f"{kind:<18} {name:<15} {seconds:8.2f} s {mib:8.0f} MiB", flush=True)
            except Exception as error:  # a way that this device does not have
                print(f"{kind:<18} {name:<15} fails: {str(error).splitlines()[0][:80]}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
