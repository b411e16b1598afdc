"""What proves an export, and the model card that reports it.

An export differs from its base, transformers and vLLM load it, and all agree with the checkpoint on log-probabilities. vLLM
answers in a process of its own: `python -m posttrain_verl.export.proof ASKED.json ANSWERED.json`. The card says what was trained
from what, on which data, what was measured, and under which licences.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain_verl.machine import devices
from posttrain_verl.run import environment
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.significance import Share

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


def token_logprobs(model: Any, texts: list[list[int]]) -> list[float]:
    """The log-probability of each token but the first of each text, one after another, in nats."""
    import torch

    found: list[float] = []
    with torch.no_grad():
        for ids in texts:
            logits = model(torch.tensor([ids])).logits[0, :-1].float()
            chosen = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
            found += chosen[:, 0].tolist()
    return found


def check_agreement(name: str, trained: list[float], other: list[float], dtype: str) -> Finding:
    """Whether two lists of log-probabilities are those of one model."""
    differences = [abs(one - two) / max(1.0, abs(one)) for one, two in zip(trained, other, strict=True)]
    worst, mean = max(differences), sum(differences) / len(differences)
    saw = f"{len(trained)} tokens: largest difference {worst:.2g}, mean {mean:.2g}, {TOLERANCES[dtype]:g} allowed ({dtype})"
    return Finding(name, worst <= TOLERANCES[dtype], saw)


def check_vllm_agreement(name: str, folder: Path, expected: list[float], texts: list[list[int]], dtype: str) -> Finding:
    """As `check_agreement`, with vLLM on the folder, in a process of its own.

    A vLLM that cannot run the folder is a finding: the folder itself may be sound.
    """
    with tempfile.TemporaryDirectory() as temporary:
        asked, answered = Path(temporary, "asked.json"), Path(temporary, "answered.json")
        asked.write_text(json.dumps({"model": str(folder), "texts": texts, "dtype": dtype}))
        variables = environment.process_variables(devices.detect_machine().name, local_model=True)
        variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # this process is one of its own already
        command = [sys.executable, "-m", "posttrain_verl.export.proof", str(asked), str(answered)]
        ended = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
        if ended.returncode:
            errors = [line for line in ended.stderr.splitlines() if "Error: " in line] or ended.stderr.splitlines()
            return Finding(name, False, f"vLLM does not run the export: {errors[-1] if errors else 'no message'}")
        return check_agreement(name, expected, json.loads(answered.read_text()), dtype)


def check_change(base: dict[str, Any], trained: dict[str, Any]) -> Finding:
    """Whether the weights moved: the norm of the difference over the norm of the base, of all shared tensors."""
    shared = [name for name in trained if name in base and base[name].shape == trained[name].shape]
    moved = sum(float((trained[name].float() - base[name].float()).norm() ** 2) for name in shared) ** 0.5
    norm = sum(float(base[name].float().norm() ** 2) for name in shared) ** 0.5
    changed = sum(not bool((trained[name].float() == base[name].float()).all()) for name in shared)
    saw = f"{changed} of {len(shared)} tensors differ; relative change {moved / norm:.2g}"
    return Finding("differs from its base", changed > 0, saw)


def check_adapter_change(model: Any) -> Finding:
    """Whether the adapter does anything: its B matrices start at zero."""
    parts = [tensor for name, tensor in model.state_dict().items() if ".lora_B." in name]
    moved = sum(bool(tensor.any()) for tensor in parts)
    return Finding("differs from its base", moved > 0, f"{moved} of {len(parts)} adapted layers are not zero")


def check_tokens_kept(base: Any, exported: Any) -> Finding:
    """Whether the tokens that end and fill a text, and the chat template, are those of the base's tokenizer."""
    names = ("eos_token_id", "pad_token_id", "chat_template")
    lost = [name for name in names if getattr(base, name) != getattr(exported, name)]
    kept = f"eos {exported.eos_token!r}, pad {exported.pad_token!r}, template equal"
    return Finding("tokens and template kept", not lost, f"differ: {', '.join(lost)}" if lost else kept)


def card_text(run: RunFolder, step: int, base: str, findings: list[Finding]) -> str:
    """README.md of the export: front matter for the hub, then the facts."""
    from huggingface_hub import ModelCardData

    plan = run.read_plan()
    base = plan["base_model"] if Path(base).is_dir() else base  # a path is of use on one machine only
    data = ModelCardData(base_model=base, library_name="transformers", pipeline_tag="text-generation",
                         tags=["verl", plan["stage"], plan["recipe"]])  # fmt: skip
    recipe = f"`{plan['recipe']}` ({plan['stage'].upper()})"
    lines = ["---", data.to_yaml(), "---", f"# {run.path.parent.name}/{run.path.name}, step {step}", ""]
    lines += [f"Trained from `{base}` by VeRL with posttrain_verl's recipe {recipe}.", ""]
    lines += ["```", f"python -m posttrain_verl.launch {' '.join(plan['overrides'])}", "```", ""]
    verdicts = {True: "yes", False: "NO", None: "not looked at"}
    proved = [f"* {finding.name}: {verdicts[finding.passed]} ({finding.saw})" for finding in findings]
    measured = []
    for file in sorted((run.path / "eval").glob("*.json")):
        found = json.loads(file.read_text())
        if "accuracy" not in found["metrics"]:  # graded by a reward that does not say what is right
            continue
        accuracy = Share(**found["metrics"]["accuracy"])
        measured.append(f"| {found.get('label') or found['model']} | {found['eval']} | {accuracy} | {accuracy.n} |")
    if measured:
        measured = ["| model | set | accuracy [95 %] | n |", "|---|---|---|---|", *measured]
    sections = {"Measured": measured, "Data": data_used(run), "Proof of the export": proved}
    for title, section in sections.items():
        lines += [f"## {title}", "", *(section or ["nothing recorded"]), ""]
    return "\n".join(lines)


def data_used(run: RunFolder) -> list[str]:
    """The manifests beside the Parquet files that the run trained on: sources with licence and revision."""
    folders = {Path(file).parent for file in run.read_settings().files("train_files")}
    lines = []
    for folder in sorted(folders):
        if not (folder / "manifest.json").is_file():
            lines.append(f"* `{folder.name}`: no manifest")
            continue
        manifest = json.loads((folder / "manifest.json").read_text())
        lines.append(f"* mix `{folder.name}`, seed {manifest.get('seed')}, mix sha256 `{manifest['mix_sha256'][:16]}`")
        for name, source in manifest["sources"].items():
            lines.append(f"  * `{name}`: {source.get('licence', 'licence not recorded')}")
        lines.append(f"  * inspected: {manifest.get('inspected') or 'no'}")
    return lines


def main() -> None:
    from vllm import LLM, SamplingParams

    asked = json.loads(Path(sys.argv[1]).read_text())
    longest = max(map(len, asked["texts"]))
    engine = LLM(asked["model"], dtype=asked["dtype"], enforce_eager=True, max_model_len=longest + 1)
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in asked["texts"]],
                              SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0))  # fmt: skip
    found = []
    for ids, output in zip(asked["texts"], outputs, strict=True):
        found += [position[token].logprob for token, position in zip(ids[1:], output.prompt_logprobs[1:], strict=True)]
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
