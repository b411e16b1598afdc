"""What proves an export: it differs from its base, transformers and vLLM load it, and all agree on log-probabilities."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain_verl.plan import hardware
from posttrain_verl.run import environment

# Largest difference of one token's log-probability, in nats or, below -1 nat, as a share of it: rounding of the same arithmetic
# in another order, and of bf16 weights, which moves a token of -20 nats by one.
TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}

AGREES = "transformers agrees with the checkpoint"  # the line that says whether the folder is the model


@dataclass(frozen=True)
class Finding:
    """One line of the proof: `passed` is None where it could not be looked at, and `saw` then says why."""

    name: str
    passed: bool | None
    saw: str


def logprobs(model: Any, texts: list[list[int]]) -> list[float]:
    """The log-probability of each token but the first of each text, one after another, in nats."""
    import torch

    found: list[float] = []
    with torch.no_grad():
        for ids in texts:
            logits = model(torch.tensor([ids])).logits[0, :-1].float()
            chosen = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
            found += chosen[:, 0].tolist()
    return found


class VllmFailed(RuntimeError):
    """vLLM did not load the folder, or ended before it answered."""


def logprobs_of_vllm(folder: Path, texts: list[list[int]], dtype: str) -> list[float]:
    """The same as `logprobs`, from vLLM on the folder, in a process of its own.

    Raises:
        VllmFailed: with the error that vLLM ended with.
    """
    with tempfile.TemporaryDirectory() as temporary:
        asked, answered = Path(temporary, "asked.json"), Path(temporary, "answered.json")
        asked.write_text(json.dumps({"model": str(folder), "texts": texts, "dtype": dtype}))
        variables = environment.of_processes(hardware.detect().name, local_model=True)
        variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # this process is one of its own already
        command = [sys.executable, "-m", "posttrain_verl.exporting.vllm_logprobs", str(asked), str(answered)]
        ended = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
        if ended.returncode:
            errors = [line for line in ended.stderr.splitlines() if "Error: " in line] or ended.stderr.splitlines()
            raise VllmFailed(f"vLLM does not run the export: {errors[-1] if errors else 'it said nothing'}")
        return json.loads(answered.read_text())


def agreement(name: str, trained: list[float], other: list[float], dtype: str) -> Finding:
    """Whether two lists of log-probabilities are those of one model."""
    differences = [abs(one - two) / max(1.0, abs(one)) for one, two in zip(trained, other, strict=True)]
    worst, mean = max(differences), sum(differences) / len(differences)
    saw = f"{len(trained)} tokens: largest difference {worst:.2g}, mean {mean:.2g}, {TOLERANCES[dtype]:g} allowed ({dtype})"
    return Finding(name, worst <= TOLERANCES[dtype], saw)


def agreement_of_vllm(name: str, folder: Path, expected: list[float], texts: list[list[int]], dtype: str) -> Finding:
    """`agreement` with vLLM. A vLLM that cannot run the folder is a finding: the folder itself may be sound."""
    try:
        return agreement(name, expected, logprobs_of_vllm(folder, texts, dtype), dtype)
    except VllmFailed as error:
        return Finding(name, False, str(error))


def change(base: dict[str, Any], trained: dict[str, Any]) -> Finding:
    """Whether the weights moved: the norm of the difference over the norm of the base, of all shared tensors."""
    shared = [name for name in trained if name in base and base[name].shape == trained[name].shape]
    moved = sum(float((trained[name].float() - base[name].float()).norm() ** 2) for name in shared) ** 0.5
    norm = sum(float(base[name].float().norm() ** 2) for name in shared) ** 0.5
    changed = sum(not bool((trained[name].float() == base[name].float()).all()) for name in shared)
    saw = f"{changed} of {len(shared)} tensors differ; relative change {moved / norm:.2g}"
    return Finding("differs from its base", changed > 0, saw)


def change_by_adapter(model: Any) -> Finding:
    """Whether the adapter does anything: its B matrices start at zero."""
    parts = [tensor for name, tensor in model.state_dict().items() if ".lora_B." in name]
    moved = sum(bool(tensor.any()) for tensor in parts)
    return Finding("differs from its base", moved > 0, f"{moved} of {len(parts)} adapted layers are not zero")


def tokens_kept(base: Any, exported: Any) -> Finding:
    """Whether the tokens that end and fill a text, and the chat template, are those of the base's tokenizer."""
    names = ("eos_token_id", "pad_token_id", "chat_template")
    lost = [name for name in names if getattr(base, name) != getattr(exported, name)]
    saw = (
        f"differ: {', '.join(lost)}"
        if lost
        else f"eos {exported.eos_token!r}, pad {exported.pad_token!r}, template equal"
    )
    return Finding("tokens and template kept", not lost, saw)
