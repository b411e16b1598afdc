"""Batches, the rollout engine, and settings that VeRL accepts and that spoil a training: learning rates, precision, LoRA, and
the schedule.

A run must reach its last step, or VeRL ends without saving. A stage adds its own rules (posttrain_verl/verl), which are those
that VeRL 0.9.1 and vLLM assert on their workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain_verl.base_models import has_random_weights, is_embedded
from posttrain_verl.base_models.shape import known_shape
from posttrain_verl.preflight import data, model
from posttrain_verl.preflight.report import CannotTell
from posttrain_verl.terminal.problem import Problem, blocking, warning
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.stage import is_count

SMALLEST_BATCH = 64  # sequences of an optimizer step; published full fine-tuning runs take 64 to 128 and more


def check_batch(composed: Composed) -> list[Problem]:
    """Every rule of the stage that the launch breaks, or only the numbers that are wrong by themselves."""
    return composed.settings.batch_problems()


def check_effective_batch(composed: Composed) -> list[Problem]:
    """A problem if the effective batch is under 64, a warning with LoRA, which often runs so."""
    if composed.posttrain.hardware.name == "cpu":
        raise CannotTell("runs on the CPU are small on purpose")
    if blocking(check_batch(composed)):
        raise CannotTell("the batch has problems")
    settings = composed.settings
    effective, key = settings.batch().effective, settings.effective_batch_key
    if effective >= SMALLEST_BATCH or composed.posttrain.small_batch:
        return []
    what = f"the effective batch is {effective} sequences an optimizer step, and published runs take {SMALLEST_BATCH} or more"
    if settings.model.lora_rank:
        return [warning(what, f"raise {key} if the loss is noisy")]
    return [Problem(what, f"raise {key}, or say that it is meant: posttrain.small_batch=true")]


def check_engine(composed: Composed) -> list[Problem]:
    """Every rule of models and the rollout engine that the launch breaks."""
    settings = composed.settings
    if not is_count(settings.nodes_count) or not is_count(settings.gpus_per_node):
        return []  # check_batch reports it
    return list(settings.engine_problems(model.read_model_config(composed), composed.posttrain.hardware))


LR_DESTROYS = 1e-3  # VeRL's default for SFT: full fine-tuning of a pretrained model does not survive it
LR_OF_ANY = 1e-2  # Adam on the smallest models
SMALL_MODEL = 50_000_000  # parameters; smaller models learn at higher rates
HALF_PRECISION = ("bf16", "bfloat16", "fp16", "float16", "16")
LOSES_UPDATES = 1e-5  # of a weight near 0.02, bf16 keeps steps of 8e-5: updates of AdamW are about the learning rate


def check_training(composed: Composed) -> list[Problem]:
    """Every such setting of the launch, except the schedule's."""
    trained, found = composed.settings.model, list(_check_learning_rate(composed))
    if str(trained.master_dtype) in HALF_PRECISION:
        what = f"{trained.override('master_dtype')}: weights in 16 bits lose updates of lr={trained.lr:g}"
        level: Any = "problem" if trained.lr <= LOSES_UPDATES and trained.lora_rank == 0 else "warning"
        remedy = f"{trained.override('master_dtype', 'fp32')} (param_offload if memory is short)"
        found.append(Problem(what, remedy, level))
    if composed.stage.aligns and has_random_weights(composed.model):
        what = f"base_model={composed.model} has random weights, and {composed.stage.name.upper()} aligns a model that answers"
        found.append(warning(what, "begin at an SFT run: base_model=run:RUN"))
    return [*found, *_check_lora(composed), *composed.settings.training_problems()]


def _check_learning_rate(composed: Composed) -> Iterator[Problem]:
    trained, stage = composed.settings.model, composed.stage
    key, lr, lora = trained.key("lr"), trained.lr, trained.lora_rank > 0
    size, shape = model.count_parameters(model.find_model_folder(composed.model)), None
    if size is None and not is_embedded(composed.model):  # weights that are not here yet
        shape = known_shape(composed.model, composed.posttrain.base_model)
        size = shape.parameters if shape else None
    if is_embedded(composed.model) if size is None else size < SMALL_MODEL:
        if lr > LR_OF_ANY:
            yield warning(f"{key}={lr:g} is far from what models of any size learn at", f"{key}={LR_OF_ANY:g} or less")
        return
    low, high = stage.usual_lora_lr if lora else stage.usual_lr
    mode = "LoRA" if lora else "full fine-tuning"
    if lr >= LR_DESTROYS and not lora:
        yield Problem(f"{key}={lr:g} destroys a pretrained model in {mode}", f"{key} between {low:g} and {high:g}")
    elif not low <= lr <= high:
        what = f"{key}={lr:g} is far from what {stage.name.upper()} with {mode} uses"
        yield warning(what, f"usual values lie between {low:g} and {high:g}")


def _check_lora(composed: Composed) -> Iterator[Problem]:
    trained, rollout = composed.settings.model, composed.settings.rollout
    if (trained.megatron_lora_rank or 0) > 0:
        what = f"{trained.key('megatron_lora_rank')} is read by Megatron alone: FSDP would train every weight"
        yield Problem(what, f"use {trained.override('lora_rank', trained.megatron_lora_rank)}")
    if trained.lora_rank <= 0:
        return
    key, contents = trained.key("save_contents"), trained.save_contents or []
    if "hf_model" in contents:  # VeRL 0.9.1 fills huggingface/ with peft's names, at which no weight is looked for
        kept = ",".join(part for part in contents if part != "hf_model")
        what = f"{key} has hf_model, and {trained.key('lora_rank')} > 0: VeRL writes base and adapter side by side"
        remedy = f"{key}=[{kept}]; python -m posttrain_verl.export merges the adapter, or writes it alone"
        yield warning(f"{what}, which transformers takes for missing weights", remedy)
    adapter = trained.lora_adapter
    if adapter and str(adapter).startswith(("/", "~", ".")) and not Path(adapter).expanduser().is_dir():
        yield Problem(f"{trained.override('lora_adapter')} does not exist", "give the folder of an adapter, or null")
    if rollout and "dummy" in str(rollout.load_format):
        what = f"{rollout.override('load_format', 'dummy')} with LoRA: only the adapter is sent, on top of random base weights"
        yield Problem(what, rollout.override("load_format", "safetensors"))


def check_schedule(composed: Composed) -> list[Problem]:
    """Problems of the number of steps and of the frequencies."""
    settings, total, available, found = composed.settings, count_steps(composed), _steps_in_data(composed), []
    wanted, epochs = settings.total_steps, settings.total_epochs
    if isinstance(wanted, int) and available and available < wanted:
        # VeRL 0.9.1 saves and validates last at total_training_steps.
        per_epoch, steps = available // epochs, settings.override("total_steps")
        what = f"{steps}, but the data ends after {available} steps ({epochs} epochs of {per_epoch})"
        remedy = f"set {settings.override('total_epochs', -(-wanted // per_epoch))} or fewer steps"
        found.append(Problem(f"{what}: VeRL would end there without its last checkpoint", remedy))
    found += [*settings.frequency_problems(), *_check_resume(composed, total)]
    return found if total is None else [*found, *settings.warmup_problems(total)]


def count_steps(composed: Composed) -> int | None:
    """Trainer steps of the run; None when the data is not there to be counted."""
    wanted, available = composed.settings.total_steps, _steps_in_data(composed)
    return wanted if isinstance(wanted, int) else available


def _steps_in_data(composed: Composed) -> int | None:
    settings = composed.settings
    rows, batch, epochs = data.count_rows(composed, "train_files"), settings.train_batch_size, settings.total_epochs
    if rows is None or not isinstance(batch, int) or batch < 1 or not isinstance(epochs, int):
        return None
    return rows // batch * epochs


def _check_resume(composed: Composed, total: int | None) -> list[Problem]:
    """The checkpoint to resume from must be named, exist, and leave something to train."""
    settings, path = composed.settings, composed.settings.resume_path
    if not settings.resumes_from_path:
        return []
    name = Path(path).name if isinstance(path, str) else ""
    step, given = name.removeprefix("global_step_"), f"{settings.key('resume_path')}={path}"
    if not path or not name.startswith("global_step_") or not step.isdecimal():
        what = f"{settings.override('resume_mode')}, but {given}"
        return [Problem(what, "give a checkpoint folder: <run>/checkpoints/global_step_N")]
    if not Path(path).expanduser().is_dir():
        return [Problem(f"{given} does not exist", "give a checkpoint folder that does")]
    if total is not None and int(step) >= total:
        what = f"the checkpoint is of step {step}, and the run ends after {total}: nothing is left to train"
        steps, epochs = settings.keys("total_steps", "total_epochs")
        return [Problem(what, f"set {steps} or {epochs} for more than {step} steps")]
    in_data, stage = _steps_in_data(composed), composed.stage
    per_epoch = in_data // settings.total_epochs if in_data else 0
    if stage.ends_with_epoch and per_epoch and int(step) % per_epoch == 0:
        what = f"the checkpoint of step {step} is of the end of an epoch of {per_epoch} steps: VeRL's {stage.name.upper()} "
        what += "trainer finds its loader exhausted and ends without training (upstream #7401)"
        remedy = "resume from an earlier checkpoint, or export it and start from that folder as base_model="
        return [Problem(what, remedy)]
    return []
