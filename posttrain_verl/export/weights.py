"""The weights of a checkpoint: put together from VeRL's FSDP shards, and exported where something asks for a Hugging Face folder.

There may be any number of shards. VeRL's own merger rounds every tensor to bf16 and takes only a one-dimensional mesh. Here
the dtype stays, and meshes with replicas (HSDP) are read, too.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from posttrain_verl.base_models import shape as shapes
from posttrain_verl.export import proof
from posttrain_verl.preflight.model import find_weight_defects
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem, WorkFailed
from posttrain_verl.verl import vllm_models
from posttrain_verl.verl.checkpoints import (
    HUGGING_FACE,
    LORA,
    best_step,
    find_shards,
    fingerprint_shards,
    has_weights,
    list_shards,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TITLE = "nothing to export"
EXPORTED_SHARDS = "shards.sha256"  # in the folder of an export: the fingerprint of the shards that it came from


def read_shards(folder: Path) -> dict[str, torch.Tensor]:
    """The whole state dict of a checkpoint; `folder` is the one that holds the shards.

    Raises:
        InputError: there is no FSDP checkpoint, a shard is missing or cut off, or tensors are sharded along two meshes at once.
    """
    import torch

    # It warns of torch.compile each time that a DTensor is read outside of training.
    logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)
    try:
        files = list_shards(folder)
    except FileNotFoundError as error:
        what = f"{folder} does not hold an FSDP checkpoint ({Path(error.filename).name} is missing)"
        remedy = "name a run that saved `model` among its checkpoint's save_contents"
        raise InputError(TITLE, [Problem(what, remedy)]) from None
    missing = [Problem(f"{file} is missing", "copy the shards of every node") for file in files if not file.is_file()]
    if missing:
        raise InputError(TITLE, missing)
    shards = []
    for file in files:
        try:
            shards.append(torch.load(file, map_location="cpu", weights_only=False, mmap=True))
        except (RuntimeError, EOFError, OSError) as error:
            raise InputError(TITLE, [Problem(f"{file} cannot be read: {error}", "export an earlier step=")]) from error
    return {name: whole_tensor([shard[name] for shard in shards]) for name in shards[0]}


def whole_tensor(parts: list[Any]) -> torch.Tensor:
    """One tensor from its parts, in the order of the ranks; what is not a DTensor is the same on every rank.

    Raises:
        InputError: the ranks of the two meshes interleave (FSDP over tensor parallelism).
    """
    first = parts[0]
    if not hasattr(first, "placements"):
        return first
    if any(type(placement).__name__ == "_StridedShard" for placement in first.placements):
        what = "the checkpoint is sharded by FSDP and tensor parallelism at once"
        raise InputError(TITLE, [Problem(what, "merge it with python -m verl.model_merger merge")])
    return _assemble_tensor(first.device_mesh.mesh, first.placements, [part.to_local() for part in parts])


def _assemble_tensor(mesh: torch.Tensor, placements: tuple[Any, ...], parts: list[torch.Tensor]) -> torch.Tensor:
    """Walk the dimensions of the mesh: any replica will do, shards are joined."""
    import torch

    if not placements:
        return parts[int(mesh)]
    if placements[0].is_replicate():
        return _assemble_tensor(mesh[0], placements[1:], parts)
    return torch.cat([_assemble_tensor(row, placements[1:], parts) for row in mesh], dim=placements[0].dim)


def load_model(checkpoint: Path, base: str) -> PreTrainedModel:
    """The model in `checkpoint` (the folder with the shards), in fp32 on the CPU; of a LoRA run with its adapter beside.

    `base` gives the weights that an adapter-only checkpoint (`save_lora_only`) leaves out.

    Raises:
        RuntimeError: the adapter does not fit the model.
    """
    import torch
    import transformers

    state = read_shards(checkpoint)
    adapter = {name: tensor for name, tensor in state.items() if ".lora_" in name}
    # Without what peft adds to the names of the base.
    rest = {name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor
            for name, tensor in state.items() if name not in adapter}  # fmt: skip
    if not rest:
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    else:
        config = transformers.AutoConfig.from_pretrained(checkpoint / HUGGING_FACE)
        kind = getattr(transformers, config.architectures[0])  # the Auto classes take no state dict
        model = kind.from_pretrained(None, config=config, state_dict=rest, dtype=torch.float32)
    if not adapter:
        return model.eval()
    from peft import LoraConfig, get_peft_model

    trained = json.loads((checkpoint / LORA).read_text())
    model.name_or_path = base  # peft writes it into adapter_config.json, and a model of a state dict has none
    modules = sorted({name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapter})
    config = LoraConfig(r=trained["r"], lora_alpha=trained["lora_alpha"], task_type=trained["task_type"],
                        target_modules=modules, base_model_name_or_path=base)  # fmt: skip
    whole = get_peft_model(model, config)
    found = whole.load_state_dict(adapter, strict=False)
    lost = [name for name in found.missing_keys if ".lora_" in name]
    if lost or found.unexpected_keys:
        strange = f"missing {lost[:3]}, unexpected {found.unexpected_keys[:3]}"
        raise RuntimeError(f"the adapter does not fit {base}: {strange}")
    return whole.eval()


def is_lora(model: Any) -> bool:
    return hasattr(model, "peft_config")


def write_model(model: Any, form: str, dtype: str, checkpoint: Path, out: Path) -> str:
    """Write the model into `out` as safetensors; `form` is "merged", or "adapter" for the adapter of a LoRA run alone.

    Tokenizer, chat template and generation config are those of the checkpoint. Merging changes `model`. Returns what had to be
    changed in the config of a merged model, or "".
    """
    import torch
    from transformers import AutoTokenizer, GenerationConfig

    if form == "merged" and is_lora(model):
        model = model.merge_and_unload()
    changed = vllm_models.make_plain(model.config) if form == "merged" else ""
    model.to(getattr(torch, dtype)).save_pretrained(out, max_shard_size="5GB")
    saved = checkpoint / HUGGING_FACE
    AutoTokenizer.from_pretrained(saved).save_pretrained(out)
    if form == "merged" and (saved / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(saved).save_pretrained(out)
    return changed


def read_written(out: Path, form: str, base: str) -> PreTrainedModel:
    """What was written, read back from its files alone (an adapter: from its files and the base), in fp32.

    Raises:
        RuntimeError: a weight is missing, or one has no place in the model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if form == "adapter":
        from peft import PeftModel

        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), out).eval()
    model, facts = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    strange = {kind: sorted(names)[:3] for kind, names in facts.items() if names}
    if strange:
        raise RuntimeError(f"transformers does not take the export as it is: {strange}")
    return model.eval()


GB = 10**9


def ensure_weights(run: RunFolder, step: int | None = None) -> Path:
    """The Hugging Face folder of a checkpoint of a run, the newest if no `step` is named.

    It is the one that VeRL saved with the checkpoint, or an export of the step (`<run>/export-<step>`), or one that is made
    now and kept as `<run>/weights-<step>`.

    Raises:
        InputError: there is no such checkpoint, it cannot be exported, or the disk has no room for it.
        WorkFailed: what was exported is not the model of the checkpoint.
    """
    step = result_step(run) if step is None else step
    checkpoint, out = run.shards(step), weights_folder(run, step)
    if not present_weights(run, step):
        run.checkpoint(step)
        _require_shards(checkpoint, out)
        with FileLock(out.with_name(f".{out.name}.lock")):
            if not is_current_export(out, checkpoint):
                shutil.rmtree(out, ignore_errors=True)
                _run_export(run, step, checkpoint, out)
    found = present_weights(run, step) or out
    if found.parent == run.path and not has_weights(checkpoint):
        log.info(f"{found} is what is left of step {step}: its shards are gone or cut short")
    if found == out:
        _require_agreement(out)
    return found


def _require_shards(checkpoint: Path, out: Path) -> None:
    """Raises InputError where an export is damaged and there is nothing to make it from again; it stays as it is."""
    if out.is_dir() and not find_shards(checkpoint):
        defects = ", ".join(find_weight_defects(out)) or "not a whole export"
        what = f"{out} has {defects}, and {checkpoint} has no shards to export again"
        raise InputError("the weights cannot be exported", [Problem(what, "copy it again, or name another step")])


def _require_agreement(out: Path) -> None:
    """A model that did not move from its base may be evaluated; one that is not that of the checkpoint may not."""
    for finding in json.loads((out / "proof.json").read_text()):
        if finding["name"] == proof.AGREES and finding["passed"] is False:
            raise WorkFailed(f"{out} is not the model of its checkpoint: {finding['saw']}")


def present_folder(run: RunFolder) -> Path:
    """Where the weights of the checkpoint of `result_step` lie already; else its folder of config and tokenizer alone.

    Raises:
        InputError: there is no checkpoint.
    """
    step = result_step(run)
    return present_weights(run, step) or run.checkpoint(step) / HUGGING_FACE


def present_weights(run: RunFolder, step: int) -> Path | None:
    """The whole model of a step that lies in a run already: VeRL's Hugging Face folder, or an export; None without one."""
    checkpoint = run.shards(step)
    if has_folder(checkpoint):
        return checkpoint / HUGGING_FACE
    exported = (run.path / f"export-{step}", weights_folder(run, step))
    return next((folder for folder in exported if is_current_export(folder, checkpoint)), None)


def result_step(run: RunFolder, from_shards: bool = False) -> int:
    """The step whose weights are the result of a run: shards, VeRL's Hugging Face folder, or an export.

    It is the newest one, or the one that a validation found best, where the stage decides so. With `from_shards` shards alone
    count. Raises InputError: there is none.
    """
    steps = set(run.checkpoint_steps())
    if not from_shards:
        steps |= {int(step) for folder in run.path.glob("*-*") if (step := _exported_step(folder)) is not None}
    ready = sorted(step for step in steps
                   if has_weights(run.shards(step)) or (not from_shards and present_weights(run, step)))  # fmt: skip
    newest = ready[-1] if ready else run.checkpoint_step()
    return best_step(run.checkpoints, run.stage.decides_checkpoint, ready) or newest


def _exported_step(folder: Path) -> str | None:
    """The step in the name of an export."""
    kind, _, step = folder.name.partition("-")
    return step if kind in ("export", "weights") and step.isdecimal() else None


def has_folder(checkpoint: Path) -> bool:
    """Whether VeRL saved a Hugging Face folder beside the shards. That of a LoRA run holds base and adapter side by side, which
    transformers would replace by random weights."""
    return is_model(checkpoint / HUGGING_FACE) and not (checkpoint / LORA).exists()


def weights_folder(run: RunFolder, step: int) -> Path:
    """Where the weights of a step lie that were exported when something asked for them."""
    return run.path / f"weights-{step}"


def is_model(folder: Path) -> bool:
    """Whether transformers finds a whole model there: an adapter is not one, nor is the tokenizer beside the shards."""
    has_files = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return has_files and not find_weight_defects(folder)


def is_current_export(folder: Path, checkpoint: Path) -> bool:
    """Whether a whole model of these very shards was exported there: a resumed run may train a step again. Exported weights whose
    shards are gone or cut short are all that is left of the step."""
    if not is_model(folder) or not (folder / "proof.json").is_file():
        return False
    if not has_weights(checkpoint):
        return True
    exported = folder / EXPORTED_SHARDS
    return exported.is_file() and exported.read_text() == fingerprint_shards(checkpoint)


def export_size(checkpoint: Path) -> int:
    """Bytes of an export in bf16; of a base in fp32 it is twice that."""
    try:
        return shapes.shape_of_folder(checkpoint / HUGGING_FACE).parameters * 2
    except (KeyError, OSError, ValueError):  # not a decoder that the plan covers: half of the shards in fp32
        return sum(file.stat().st_size for file in find_shards(checkpoint)) // 2


def _run_export(run: RunFolder, step: int, checkpoint: Path, out: Path) -> None:
    """Run the verb in a process of its own, whose memory is free again afterwards."""
    free, size = shutil.disk_usage(run.path).free, export_size(checkpoint)
    if free < size:
        room = f"{run.path} has {free / GB:.3g} GB free for {size / GB:.3g}"
        what = f"{checkpoint} has no Hugging Face folder, and {room}"
        remedy = f"free some, or: python -m posttrain_verl.export run={run.path} step={step} posttrain.out=FOLDER"
        raise InputError("the weights cannot be exported", [Problem(what, remedy)])
    log.info(f"{checkpoint} holds shards only: exporting them to {out}, about {size / GB:.3g} GB")
    arguments = [f"run={run.path}", f"step={step}", "vllm=false", f"posttrain.out={out}"]
    command = [sys.executable, "-m", "posttrain_verl.export", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if not is_model(out):
        errors = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
        remedy = "the same command says more: " + " ".join(command[1:])
        raise InputError("the weights cannot be exported", [Problem("\n".join(errors[-5:]), remedy)])
