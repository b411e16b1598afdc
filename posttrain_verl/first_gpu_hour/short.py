"""The short mode: one GPU, no network, no vLLM. Training steps of made models, each kind in a process with a limit of its own.

Every process starts with a small step that warms up. Then the largest micro batch grows, so that memory a token is
measured beside the peak, and the last step has several micro batches, whose gradients add up.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from posttrain_verl.compose import Composed, compose
from posttrain_verl.first_gpu_hour import allocation
from posttrain_verl.first_gpu_hour.parts import FAILED, PASSED, Execute, Part, run_parts
from posttrain_verl.plan.hardware import Machine
from posttrain_verl.problem import InputError
from posttrain_verl.verl.attention import MODELS, attention_key

DEVICE = "device"
DEVICE_SHARE, FIRST_SHARE, SHARE = (
    4.0,
    6.0,
    3.0,
)  # the first to import torch from the disk, the first to import VeRL, the others
BATCHES = [{"fill": 0.25}, {"fill": 0.25}, {"fill": 0.5}, {"fill": 1.0}, {"fill": 1.0}, {"fill": 1.0},
           {"fill": 1.0, "micro_batches": 3}]  # fmt: skip
# A CPU's own settings are padded rows under sdpa. Here it keeps what the recipe says, as a GPU does, in small micro batches.
AS_ON_A_GPU = {attention_key(MODELS["sft"]), "model.use_remove_padding", "data.use_dynamic_bsz"}
SMALL = ("data.max_token_len_per_gpu=512",)
APART = 0.3  # of what rows that run together would differ by; bf16 alone gives less, a wrong attention more


@dataclass(frozen=True)
class Kind:
    """One kind of process: a recipe and words that change it. Of several models it takes all, the first or the last."""

    name: str
    words: tuple[str, ...]
    models: Literal["all", "first", "last"] = "all"
    needs_gpu: bool = False
    compares_rows: bool = False
    share: float = SHARE


SFT, LORA = "recipe=math_sft", "recipe=math_sft_lora"
FSDP2 = (SFT, "engine.strategy=fsdp2")
OFFLOAD = ("engine.param_offload=true", "engine.optimizer_offload=true")
KINDS = (
    Kind("attention", (SFT,), "first", compares_rows=True, share=FIRST_SHARE),
    Kind("SFT", (SFT,)),
    Kind("LoRA", (LORA,)),
    Kind("SFT without checkpointing", (SFT, "model.enable_gradient_checkpointing=false"), "last"),
    Kind("FSDP2 with offload_policy", (*FSDP2, "engine.offload_policy=true"), "last", needs_gpu=True),
    Kind("FSDP2 with VeRL's offload", (*FSDP2, *OFFLOAD), "last", needs_gpu=True),
    Kind("FSDP1", (SFT, "engine.strategy=fsdp"), "last", needs_gpu=True),
)


def use_one_device() -> None:
    """Let torch see the first device alone of those that it may use."""
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]


def run(
    models: Sequence[str], home: Path, machine: Machine, seconds: float, execute: Execute
) -> tuple[list[Part], list[str]]:
    """Every part, in `seconds`, and the table of steps; the made models are deleted at the end."""
    composed: dict[str, Composed] = {}
    made = parts(models, home, machine, composed)
    runnable = [part for part in made if part.command]
    try:
        run_parts(runnable, seconds, home, execute, lambda part: _read(part, home, composed))
    finally:
        shutil.rmtree(home / "models", ignore_errors=True)
    return made, ["## Training steps", "", *table(made)]


def parts(models: Sequence[str], home: Path, machine: Machine, composed: dict[str, Composed]) -> list[Part]:
    """What is to be run, with an order written for each; `composed` gets the launch of each."""
    device = Part(DEVICE, [], DEVICE_SHARE)
    device.command = [sys.executable, "-m", "posttrain_verl.first_gpu_hour.device", str(_out(home, device))]
    chosen = {"all": models, "first": models[:1], "last": models[-1:]}
    wanted = [(kind, model) for model in models for kind in KINDS if model in chosen[kind.models]]
    return [device] + [_part(kind, model, home, machine, composed) for kind, model in wanted]


def _part(kind: Kind, model: str, home: Path, machine: Machine, composed: dict[str, Composed]) -> Part:
    name, cpu = f"{kind.name}, {model}", machine.name == "cpu"
    part = Part(name, [], kind.share)
    if cpu and kind.needs_gpu:
        part.why = "needs a GPU"
        return part
    words = [*kind.words, f"base_model={model}", "mix=embedded", *(SMALL if cpu else ())]
    try:
        composed[name] = compose(words, _fixed(words) if cpu else None)
    except InputError as error:
        part.state, part.lines = FAILED, str(error).splitlines()
        part.why = "does not compose"
        return part
    order = home / f"{part.stem}.order.json"
    order.write_text(json.dumps(_order(kind, composed[name], home / "models" / model, _out(home, part))))
    part.command = [sys.executable, "-m", "posttrain_verl.verl.training_steps", str(order)]
    part.measured = {"words": words, "changes": [str(change) for change in composed[name].changes]}
    return part


def _fixed(words: Sequence[str]) -> frozenset[str]:
    """The keys that a CPU leaves alone."""
    keys = {word.partition("=")[0] for word in words}
    return frozenset(AS_ON_A_GPU | {key for key in keys if "." in key})


def _order(kind: Kind, composed: Composed, model: Path, out: Path) -> dict[str, Any]:
    shape: Any = OmegaConf.to_container(composed.posttrain.base_model.config)
    batches = [] if kind.compares_rows else BATCHES
    return {"verl": composed.resolved, "model_config": shape, "backend": composed.posttrain.hardware.name, "batches": batches,
            "model": str(model), "out": str(out), "compare_rows": kind.compares_rows}  # fmt: skip


def _out(home: Path, part: Part) -> Path:
    return home / f"{part.stem}.json"


def _read(part: Part, home: Path, composed: dict[str, Composed]) -> None:
    """What the process wrote, also where it had to be ended; and the plan at the tokens of each step."""
    file = _out(home, part)
    if not file.is_file():
        return
    part.measured |= json.loads(file.read_text())
    if part.name == DEVICE:
        return
    for step in part.measured["steps"]:
        step["planned"] = allocation.planned(allocation.of_micro_batch(composed[part.name], step["largest"]))
    rows = part.measured["rows"]
    if rows:
        part.lines = [f"{name}: {value:.2e} of the spread of the log-probabilities" for name, value in rows.items()]
    if part.state == PASSED and rows and not rows["packed_against_padded_sdpa"] < APART * rows["run_together"]:
        part.state, part.why = FAILED, f"packed rows do not give what padded rows give: {rows}"


@dataclass(frozen=True)
class Figures:
    """What a part shows in one row: the steps of the largest single micro batch, the first step left out.

    `kib_a_token` is (planned, allocated) between a quarter and all of the tokens of a micro batch.
    """

    largest: int
    seconds: float
    tokens_a_second: float
    tflops: float
    memory: allocation.Memory
    kib_a_token: tuple[float | None, float | None]
    several: allocation.Memory | None

    @classmethod
    def of(cls, steps: Sequence[dict[str, Any]]) -> Figures | None:
        """None where no step after the first was measured."""
        single = [step for step in steps[1:] if step["micro_batches"] == 1]
        if not single:
            return None
        most, least = (pick(single, key=lambda step: step["largest"]) for pick in (max, min))
        same = [step for step in single if step["largest"] == most["largest"]]
        median = {key: statistics.median(step[key] for step in same) for key in ("seconds", "tokens", "tflops")}
        several = [_memory(step) for step in steps[1:] if step["micro_batches"] > 1]
        slopes = _slope(least, most, "planned"), _slope(least, most, "allocated")
        return cls(most["largest"], median["seconds"], median["tokens"] / median["seconds"], median["tflops"],
                   _memory(most), slopes, several[-1] if several else None)  # fmt: skip


def _memory(step: dict[str, Any]) -> allocation.Memory:
    return allocation.Memory(step["planned"], step["allocated"], step["reserved"], step["largest"])


def _slope(least: dict[str, Any], most: dict[str, Any], key: str) -> float | None:
    tokens = most["largest"] - least["largest"]
    if most[key] is None or not tokens:
        return None
    return float((most[key] - least[key]) / tokens * 2**20)


def table(made: Sequence[Part]) -> list[str]:
    """A Markdown table of what was measured. FLOP rates are held against the datasheet and against this device's product."""
    rate = next((part.measured.get("matmul_tflops") for part in made if part.name == DEVICE), None)
    rows = [_row(part, figures, rate) for part in made if (figures := Figures.of(part.measured.get("steps", [])))]
    return [
        "| steps | tokens | planned GB | allocated GB | off | KiB a token, planned | allocated | 3 micro batches GB | off "
        "| s a step | tokens/s | TFLOP/s | MFU | of the matrix product |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]


def _row(part: Part, figures: Figures, rate: float | None) -> str:
    peak, several = part.measured["peak_tflops"], figures.several
    cells = [part.name, f"{figures.largest}", _number(figures.memory.planned), _number(figures.memory.allocated),
             figures.memory.verdict, *(_number(each, 0) for each in figures.kib_a_token),
             _number(several.allocated if several else None), several.verdict if several else "-",
             _number(figures.seconds, 3), _number(figures.tokens_a_second, 0), _number(figures.tflops, 1),
             _share(figures.tflops, peak), _share(figures.tflops, rate)]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(part: float, whole: float | None) -> str:
    return f"{part / whole:.0%}" if whole else "-"
