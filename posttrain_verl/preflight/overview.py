"""What a launch will do, in one screen: what is trained on which data and where, and what the machine changed of the recipe."""

from __future__ import annotations

from pathlib import Path

from posttrain_verl import paths
from posttrain_verl.base_models.shape import known_shape
from posttrain_verl.plan import summary
from posttrain_verl.preflight import data, training
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.job import counted

CHANGES_FLAG = "--changes"


def overview_lines(composed: Composed, all_changes: bool = False) -> list[str]:
    """The header of check and launch, then the changes that alter the experiment. The others are counted, or shown."""
    settings = composed.settings
    are_sound = settings.is_readable() and not settings.batch_problems()
    rows = {"model": _describe_model(composed), "data": _describe_data(composed)}
    if are_sound:
        steps = training.count_steps(composed)
        rates = [
            f"{model.lr:g}" if len(settings.models) == 1 else f"{model.lr:g} ({model.name})"
            for model in settings.models
        ]
        rows |= {"a step": summary.batch_in_words(composed), "learning rate": ", ".join(rates),
                 "steps": "unknown until the data is here" if steps is None else str(steps)}  # fmt: skip
    rows["hardware"] = _describe_hardware(composed, are_sound)
    title = f"recipe {composed.recipe}{_own_file(composed, 'recipe')}: {composed.stage.describe_training(settings)}"
    return [title, *(f"  {name:14} {text}" for name, text in rows.items()), *_change_lines(composed, all_changes)]


def _describe_model(composed: Composed) -> str:
    trained, shape = composed.settings.model, known_shape(composed.model, composed.posttrain.base_model)
    size = ""
    if shape:
        unit, name = (1e9, "B") if shape.parameters >= 1e9 else (1e6, "M")
        size = f" ({shape.parameters / unit:.3g} {name} parameters)"
    mode = f"LoRA of rank {trained.lora_rank}" if trained.lora_rank else "full fine-tuning"
    node = composed.posttrain.base_model
    named = f"{node.name}, trained by {_shown_path(Path(node.run))}" if node.get("run") else composed.model
    return f"{named}{_own_file(composed, 'base_model')}{size}, {mode}"


def _describe_data(composed: Composed) -> str:
    """The mix, or the user's own files, with the rows of training and validation."""
    of_mix = len(data.list_mix_files(composed)) == len(data.list_data_files(composed))
    named = f"mix {composed.posttrain.mix.name}{_own_file(composed, 'mix')}" if of_mix else "files of your own"
    counts = [data.count_rows(composed, name) for name in data.DATA_NAMES]
    if None in counts:
        return f"{named}, not counted yet"
    return f"{named}: {counted(counts[0] or 0, 'row')} to train on, {counts[1]} to validate"


def _describe_hardware(composed: Composed, are_sound: bool) -> str:
    node, settings = composed.posttrain.hardware, composed.settings
    name = f"{node.name}{_own_file(composed, 'hardware')}"
    if node.name == "cpu":
        why = f"{composed.machine.reason}; " if composed.machine else ""
        return f"{name}: {why}the real VeRL, vLLM and Ray run on the CPU backend"
    memory = f" of {node.memory_gb:g} GB" if node.memory_gb is not None else ""
    link = f", {node.interconnect}" if node.interconnect else ""
    return f"{name} ({settings.nodes_count} x {settings.gpus_per_node} devices{memory}{link})" if are_sound else name


def _own_file(composed: Composed, group: str) -> str:
    """In brackets the file of an option that does not come with the package."""
    file = composed.files.get(group)
    if file is None or paths.is_shipped(group, file):
        return ""
    return f" ({_shown_path(file)})"


def _shown_path(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _change_lines(composed: Composed, all_changes: bool) -> list[str]:
    names = {*composed.settings.experiment_keys(), "base_model", "mix"}
    altering = [change for change in composed.changes if change.key in names]
    others = [change for change in composed.changes if change.key not in names]
    machine = composed.posttrain.hardware.name
    lines = [f"hardware={machine} changes the experiment:", *(f"  {change}" for change in altering)] if altering else []
    if others and not all_changes:
        return [
            *lines,
            f"hardware={machine} changes {counted(len(others), 'other setting')}; {CHANGES_FLAG} shows them",
        ]
    return [*lines, f"hardware={machine} changes too:", *(f"  {change}" for change in others)] if others else lines
