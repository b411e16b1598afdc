"""The weights of a checkpoint for what reads Hugging Face folders: checkpoints hold shards, unless `hf_model` was asked for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from posttrain_verl.exporting import proof
from posttrain_verl.plan import shape as shapes
from posttrain_verl.problem import InputError, Problem, WorkFailed
from posttrain_verl.run.folder import RunFolder

GB = 10**9


def weights_of(run: RunFolder, stage: str, step: int | None = None, report: Callable[[str], object] = print) -> Path:
    """The Hugging Face folder of a checkpoint of a run, the newest if no `step` is named.

    It is the one that VeRL saved with the checkpoint, or an export of the step (`<run>/export-<step>`), or one that is made
    now and kept as `<run>/weights-<step>`.

    Raises:
        InputError: there is no such checkpoint, it cannot be exported, or the disk has no room for it.
        WorkFailed: what was exported is not the model of the checkpoint.
    """
    step = newest(run, stage) if step is None else step
    checkpoint = run.checkpoint(stage, step)
    if has_folder(checkpoint):
        return checkpoint / "huggingface"
    if is_export_of(run.path / f"export-{step}", checkpoint):
        return run.path / f"export-{step}"
    out = cache_of(run, step)
    with FileLock(out.with_name(f".{out.name}.lock")):
        if not is_export_of(out, checkpoint):
            shutil.rmtree(out, ignore_errors=True)
            _export(run, step, checkpoint, out, report)
    _require_agreement(out)
    return out


def newest(run: RunFolder, stage: str) -> int:
    """The newest step with weights, as shards or as VeRL's Hugging Face folder.

    Raises:
        InputError: there is none.
    """
    ready = [step for step in run.checkpoint_steps() if has_folder(run.shards(stage, step))]
    try:
        return max([run.checkpoint_step(stage), *ready])
    except InputError:
        if ready:
            return ready[-1]
        raise


def has_folder(checkpoint: Path) -> bool:
    """Whether VeRL saved a Hugging Face folder beside the shards. That of a LoRA run holds base and adapter side by side, which
    transformers would replace by random weights."""
    return is_model(checkpoint / "huggingface") and not (checkpoint / "lora_train_meta.json").exists()


def cache_of(run: RunFolder, step: int) -> Path:
    """Where the weights of a step lie that were exported when something asked for them."""
    return run.path / f"weights-{step}"


def is_model(folder: Path) -> bool:
    """Whether transformers finds a whole model there: an adapter is none, nor is the tokenizer beside the shards."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def is_export_of(folder: Path, checkpoint: Path) -> bool:
    """Whether a whole model was exported there since the checkpoint was written: a resumed run may train a step again."""
    if not is_model(folder) or not (proof_file := folder / "proof.json").is_file():
        return False
    written = [file.stat().st_mtime for file in checkpoint.glob("model_world_size_*.pt")]
    return proof_file.stat().st_mtime >= max(written, default=0.0)


def size_of_export(checkpoint: Path) -> int:
    """Bytes of an export in bf16; of a base in fp32 it is twice that."""
    try:
        return shapes.of_folder(checkpoint / "huggingface").parameters * 2
    except (KeyError, OSError, ValueError):  # no decoder that the plan covers: half of the shards in fp32
        return sum(file.stat().st_size for file in checkpoint.glob("model_world_size_*.pt")) // 2


def _export(run: RunFolder, step: int, checkpoint: Path, out: Path, report: Callable[[str], object]) -> None:
    """Run the verb in a process of its own, whose memory is free again afterwards."""
    free, size = shutil.disk_usage(run.path).free, size_of_export(checkpoint)
    if free < size:
        what = (
            f"{checkpoint} has no Hugging Face folder, and {run.path} has {free / GB:.3g} GB free for {size / GB:.3g}"
        )
        remedy = f"free some, or: python -m posttrain_verl.export run={run.path} step={step} posttrain.out=FOLDER"
        raise InputError("the weights cannot be exported", [Problem(what, remedy)])
    report(f"{checkpoint} holds shards only: exporting them to {out}, about {size / GB:.3g} GB")
    words = [f"run={run.path}", f"step={step}", "vllm=false", f"posttrain.out={out}"]
    command = [sys.executable, "-m", "posttrain_verl.export", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if not is_model(out):
        said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
        remedy = "the same command says more: " + " ".join(command[1:])
        raise InputError("the weights cannot be exported", [Problem("\n".join(said[-5:]), remedy)])


def _require_agreement(folder: Path) -> None:
    """A model that did not move from its base may be evaluated; one that is not that of the checkpoint may not."""
    findings = json.loads((folder / "proof.json").read_text())
    for finding in findings:
        if finding["name"] == proof.AGREES and finding["passed"] is False:
            raise WorkFailed(f"{folder} is not the model of its checkpoint: {finding['saw']}")
