"""What a run is, for the head of its page: model, algorithm, data, date, machine, the main settings, and its attempts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from omegaconf.errors import OmegaConfBaseException

from posttrain_verl.report.run import Run


class Fact(NamedTuple):
    """A line of the head: its name and its value."""

    name: str
    value: str


def run_facts(run: Run) -> list[Fact]:
    """What the files of the run say; a fact that they do not tell, or tell in another form, is left out."""
    found = []
    for name, describe in FACTS.items():
        with suppress(TypeError, ValueError, AttributeError, OmegaConfBaseException):
            if value := describe(run):
                found.append(Fact(name, value))
    return found


def shared_facts(runs: Sequence[Run]) -> list[Fact]:
    """The facts that are the same for all runs."""
    first, *others = [run_facts(run) for run in runs] or [[]]
    return [fact for fact in first if all(fact in each for each in others)]


def format_time(seconds: float) -> str:
    """A time since the epoch, in the zone of this machine."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _describe_model(run: Run) -> str:
    """The base model by its name in conf/base_model, and by its id of the hub or its folder where that says more."""
    name, where = str(run.plan.get("base_model") or ""), str(run.plan.get("model") or "")
    if not name or name == "folder":
        return where
    return name if not where or run.plan.get("local_model") else f"{name} ({where})"


def _describe_algorithm(run: Run) -> str:
    """E.g. `grpo`, or `sft, LoRA of rank 16`."""
    if not run.stage or not run.settings:
        return ""
    rank = run.settings.model.lora_rank
    return run.stage.algorithm(run.settings) + (f", LoRA of rank {rank}" if rank else "")


def _describe_data(run: Run) -> str:
    """The data set whose files were trained on, with its rows; files of no data set by their paths."""
    files = run.train_files
    counts = [(run.manifest.get("files") or {}).get(file.name, {}).get("rows") for file in files]
    rows = f"{sum(counts):,} rows" if counts and all(isinstance(count, int) for count in counts) else ""
    mix = str(run.plan.get("mix") or "")  # which a launch always has, also where it trains on other files
    is_of_mix = not files or any(file.parent.name == mix for file in files)
    named = str((run.manifest.get("mix") or {}).get("name") or (is_of_mix and mix) or "")
    return ", ".join(filter(None, (named or ", ".join(map(str, files)), rows)))


def _describe_machine(run: Run) -> str:
    """The host of the last attempt, and the devices that the launch found there, else its file of conf/hardware."""
    devices = run.plan.get("devices") or run.plan.get("hardware")
    return ", ".join(str(each) for each in (run.status.get("machine"), devices) if each)


def _describe_rates(run: Run) -> str:
    """That of each trained model, named where there are several."""
    models = run.settings.models if run.settings else []
    rates = {model.name: f"{float(model.lr):g}" for model in models if model.lr is not None}
    return ", ".join(rates.values() if len(rates) == 1 else (f"{name} {rate}" for name, rate in rates.items()))


def _describe_lengths(run: Run) -> str:
    """The limits of a sequence's parts, e.g. `prompt 512, response 1,024 tokens`."""
    limits = [(name, getattr(run.settings, name)) for name in (run.settings.length_names if run.settings else ())]
    parts = [(name.removeprefix("max_").removesuffix("length").strip("_"), limit) for name, limit in limits if limit]
    return ", ".join(f"{part} {limit:,}".strip() for part, limit in parts) + (" tokens" if parts else "")


def _describe_rollouts(run: Run) -> str:
    rollout = run.settings.rollout if run.settings else None
    if rollout is None or rollout.answers_per_prompt is None:
        return ""
    heat = "" if rollout.temperature is None else f", temperature {rollout.temperature:g}"
    return f"{rollout.answers_per_prompt} a prompt{heat}"


FACTS: dict[str, Callable[[Run], str]] = {
    "Base model": _describe_model,
    "Algorithm": _describe_algorithm,
    "Data": _describe_data,
    "Started": lambda run: format_time(run.attempts[0].started) if run.attempts else "",
    "Machine": _describe_machine,
    "Batch": lambda run: str((run.plan.get("arithmetic") or {}).get("words") or ""),
    "Learning rate": _describe_rates,
    "Steps": lambda run: f"{run.planned_steps:,}" if run.planned_steps else "",
    "Lengths": _describe_lengths,
    "Rollouts": _describe_rollouts,
}
