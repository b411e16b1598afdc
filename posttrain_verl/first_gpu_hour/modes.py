"""The two modes of the hour, each with its parts and the table that sums them up.

The full mode runs the tests marked gpu, then `check` and two real steps of the smallest SFT, GRPO and LoRA recipes. The
short mode needs one GPU, no network and no vLLM: training steps of made models, each kind in a process with a limit of
its own. Each such process starts with a small step that warms up. Then the largest micro batch grows, so that memory
per token is measured beside the peak. The last step has several micro batches, whose gradients add up.
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
from xml.etree import ElementTree

from omegaconf import OmegaConf

from posttrain_verl.compose import compose
from posttrain_verl.first_gpu_hour import allocation
from posttrain_verl.first_gpu_hour.hour_parts import FAILED, NOT_RUN, PASSED, TAIL, Execute, Part, run_parts
from posttrain_verl.machine.devices import Machine
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.output import metrics_by_step, step_line
from posttrain_verl.terminal.problem import InputError
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.settings import Actor, Rollout, SftModel
from posttrain_verl.verl.stage import Settings

TWO_STEPS = ("mix=embedded", *Settings.assign_all({"total_steps": 2, "save_every": 2, "validate_every": -1}))
RL = (Settings.assign("train_batch_size", 64), Actor.assign("mini_batch_size", 32),
      Settings.assign("validate_first", False), Rollout.assign("tensor_parallel", 1))  # fmt: skip
RUNS = {
    "SFT": ("recipe=math_sft", *TWO_STEPS),
    "GRPO": ("recipe=gsm8k_grpo", *TWO_STEPS, *RL),
    "LoRA": ("recipe=math_grpo_lora", *TWO_STEPS, *RL),
}
# For the CPU, where sizes are its own.
FULL_ON_CPU = (Settings.assign("train_batch_size", 8), Actor.assign("mini_batch_size", 8))
TESTS = "tests"
# Shares of the budget. The tests launch five runs, and rollouts take longest to start.
SHARES = {TESTS: 30.0, "check": 1.0, "train SFT": 6.0, "train GRPO": 12.0, "train LoRA": 12.0}


def run_full(
    models: Sequence[str], home: Path, machine: Machine, seconds: float, execute: Execute
) -> tuple[list[Part], list[str]]:
    """Every part, in `seconds`, and the table of memory."""
    made = full_parts(models[0], home, machine.name == "cpu")

    def read_part(part: Part) -> None:
        if part.name == TESTS:
            _count_tests(part, home / "tests.xml")
        elif part.name.startswith("train "):
            _read_run(part, home)

    run_parts(made, seconds, home, execute, read_part)
    memories = {part.name: part.memory for part in made if part.memory}
    return made, ["## Memory of one GPU, planned and allocated", "", *allocation.memory_table(memories)]


def full_parts(model: str, home: Path, cpu: bool) -> list[Part]:
    """What is to be run. On a CPU there are no tests: each of them would be skipped."""
    results = home / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={results}", "tests/gpu"]
    made = [] if cpu else [Part(TESTS, command, SHARES[TESTS])]
    for name, overrides in RUNS.items():
        ours = [*overrides, f"base_model={model}", f"posttrain.runs_dir={home}", f"posttrain.data_dir={home / 'data'}",
                f"posttrain.run_id={name.lower()}", *(FULL_ON_CPU if cpu and name != "SFT" else ())]  # fmt: skip
        made.append(Part(f"check {name}", [sys.executable, "-m", "posttrain_verl.check", *ours], SHARES["check"]))
        train = [sys.executable, "-m", "posttrain_verl.launch", *ours]
        made.append(Part(f"train {name}", train, SHARES[f"train {name}"]))
    return made


def _count_tests(part: Part, results: Path) -> None:
    """Tests that were all skipped show nothing, whatever pytest's exit code: 0 with skipped tests, 5 with none at all."""
    counts = dict.fromkeys(("tests", "skipped", "failures", "errors"), 0)
    for suite in ElementTree.parse(results).iter("testsuite") if results.is_file() else ():
        counts = {kind: number + int(suite.get(kind, 0)) for kind, number in counts.items()}
    passed = counts["tests"] - counts["skipped"] - counts["failures"] - counts["errors"]
    if part.state == PASSED and not passed:
        part.state = NOT_RUN
        part.why = f"all {counts['tests']} tests were skipped"
    elif part.state == FAILED and not counts["tests"]:
        part.why += ", and no test ran; tests/gpu is in a checkout only"


def _read_run(part: Part, home: Path) -> None:
    overrides = part.command[3:]
    recipe, name = overrides[0].partition("=")[2], part.name.removeprefix("train ").lower()
    folder = RunFolder(home / recipe / name)
    if folder.metrics.is_file():
        part.memory = allocation.compare_memory(overrides, folder)
    if part.state == PASSED and folder.metrics.is_file():
        part.lines = [step_line(step, metrics) for step, metrics in metrics_by_step(folder.metrics).items()]
    elif folder.log.is_file():
        end = folder.log.read_text(errors="replace").splitlines()[-TAIL:]
        part.lines += ["", f"the end of {folder.log.name}:", *end]


DEVICE = "device"
BATCHES = [{"fill": 0.25}, {"fill": 0.25}, {"fill": 0.5}, {"fill": 1.0}, {"fill": 1.0}, {"fill": 1.0},
           {"fill": 1.0, "micro_batches": 3}]  # fmt: skip
# A CPU's own settings are padded rows under sdpa. Here it keeps what the recipe says, as a GPU does, in small micro batches.
AS_ON_A_GPU = set(SftModel.keys("attention", "packed_rows", "dynamic_batches"))
SHORT_ON_CPU = (SftModel.assign("token_budget", 512),)
# Of what rows that run together would differ by. bf16 alone gives less, a wrong attention more.
LARGEST_DIFFERENCE = 0.3


@dataclass(frozen=True)
class Kind:
    """One kind of process: a recipe with overrides. Of several models it takes all, the first or the last."""

    name: str
    overrides: tuple[str, ...]
    models: Literal["all", "first", "last"] = "all"
    needs_gpu: bool = False
    compares_rows: bool = False
    share: float = 3.0  # of the budget


SFT, LORA = "recipe=math_sft", "recipe=math_sft_lora"
FSDP2 = (SFT, SftModel.assign("strategy", "fsdp2"))
OFFLOAD = SftModel.assign_all({"param_offload": True, "optimizer_offload": True})
KINDS = (  # the first one imports VeRL from the disk, which takes a larger share
    Kind("attention", (SFT,), "first", compares_rows=True, share=6.0),
    Kind("SFT", (SFT,)),
    Kind("LoRA", (LORA,)),
    Kind("SFT without checkpointing", (SFT, SftModel.assign("gradient_checkpointing", False)), "last"),
    Kind("FSDP2 with offload_policy", (*FSDP2, SftModel.assign("offload_policy", True)), "last", needs_gpu=True),
    Kind("FSDP2 with VeRL's offload", (*FSDP2, *OFFLOAD), "last", needs_gpu=True),
    Kind("FSDP1", (SFT, SftModel.assign("strategy", "fsdp")), "last", needs_gpu=True),
)


def use_one_device() -> None:
    """Let torch see the first device alone of those that it may use."""
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]


def run_short(
    models: Sequence[str], home: Path, machine: Machine, seconds: float, execute: Execute
) -> tuple[list[Part], list[str]]:
    """Every part, in `seconds`, and the table of steps; the made models are deleted at the end."""
    composed: dict[str, Composed] = {}
    made = short_parts(models, home, machine, composed)
    runnable = [part for part in made if part.command]
    try:
        run_parts(runnable, seconds, home, execute, lambda part: _read_short_part(part, home, composed))
    finally:
        shutil.rmtree(home / "models", ignore_errors=True)
    return made, ["## Training steps", "", *step_table(made)]


def short_parts(models: Sequence[str], home: Path, machine: Machine, composed: dict[str, Composed]) -> list[Part]:
    """What is to be run, with an order written for each; `composed` gets the launch of each."""
    device = Part(DEVICE, [], 4.0)  # it imports torch from the disk
    device.command = [sys.executable, "-m", "posttrain_verl.first_gpu_hour.device", str(_output_file(home, device))]
    chosen = {"all": models, "first": models[:1], "last": models[-1:]}
    wanted = [(kind, model) for model in models for kind in KINDS if model in chosen[kind.models]]
    return [device] + [_short_part(kind, model, home, machine, composed) for kind, model in wanted]


def _short_part(kind: Kind, model: str, home: Path, machine: Machine, composed: dict[str, Composed]) -> Part:
    name, cpu = f"{kind.name}, {model}", machine.name == "cpu"
    part = Part(name, [], kind.share)
    if cpu and kind.needs_gpu:
        part.why = "needs a GPU"
        return part
    overrides = [*kind.overrides, f"base_model={model}", "mix=embedded", *(SHORT_ON_CPU if cpu else ())]
    keys = {override.partition("=")[0] for override in overrides}
    kept_on_cpu = frozenset(AS_ON_A_GPU | {key for key in keys if "." in key})
    try:
        launch = composed[name] = compose(overrides, kept_on_cpu if cpu else None)
    except InputError as error:
        part.state, part.lines = FAILED, str(error).splitlines()
        part.why = "does not compose"
        return part
    file, shape = home / f"{part.stem}.order.json", OmegaConf.to_container(launch.posttrain.base_model.config)
    order = {
        "verl": launch.resolved, "model_config": shape, "backend": launch.posttrain.hardware.name,
        "batches": [] if kind.compares_rows else BATCHES, "model": str(home / "models" / model),
        "out": str(_output_file(home, part)), "compare_rows": kind.compares_rows,
    }  # fmt: skip
    file.write_text(json.dumps(order))
    part.command = [sys.executable, "-m", "posttrain_verl.first_gpu_hour.training_steps", str(file)]
    part.measured = {"words": overrides, "changes": [str(change) for change in launch.changes]}
    return part


def _output_file(home: Path, part: Part) -> Path:
    return home / f"{part.stem}.json"


def _read_short_part(part: Part, home: Path, composed: dict[str, Composed]) -> None:
    """What the process wrote, also if it was stopped; and the plan at the tokens of each step."""
    file = _output_file(home, part)
    if not file.is_file():
        return
    part.measured |= json.loads(file.read_text())
    if part.name == DEVICE:
        return
    for step in part.measured["steps"]:
        step["planned"] = allocation.planned_peak(allocation.job_with_micro_batch(composed[part.name], step["largest"]))
    rows = part.measured["rows"]
    if not rows:
        return
    part.lines = [f"{name}: {value:.2e} of the spread of the log-probabilities" for name, value in rows.items()]
    agree = rows["packed_against_padded_sdpa"] < LARGEST_DIFFERENCE * rows["run_together"]  # also false for NaN
    if part.state == PASSED and not agree:
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
        several = [_step_memory(step) for step in steps[1:] if step["micro_batches"] > 1]
        slopes = _memory_slope(least, most, "planned"), _memory_slope(least, most, "allocated")
        return cls(most["largest"], median["seconds"], median["tokens"] / median["seconds"], median["tflops"],
                   _step_memory(most), slopes, several[-1] if several else None)  # fmt: skip


def _step_memory(step: dict[str, Any]) -> allocation.Memory:
    return allocation.Memory(step["planned"], step["allocated"], step["reserved"], step["largest"])


def _memory_slope(least: dict[str, Any], most: dict[str, Any], key: str) -> float | None:
    tokens = most["largest"] - least["largest"]
    known = tokens and most[key] is not None
    return float((most[key] - least[key]) / tokens * 2**20) if known else None


def step_table(made: Sequence[Part]) -> list[str]:
    """A Markdown table of what was measured. FLOP rates are held against the datasheet and against this device's product."""
    rate = next((part.measured.get("matmul_tflops") for part in made if part.name == DEVICE), None)
    rows = []
    for part in made:
        figures = Figures.of(part.measured.get("steps", []))
        if figures is None:
            continue
        memory, several, number = figures.memory, figures.several, allocation.format_number
        shares = [f"{figures.tflops / whole:.0%}" if whole else "-" for whole in (part.measured["peak_tflops"], rate)]
        cells = [
            part.name, f"{figures.largest}", number(memory.planned), number(memory.allocated), memory.verdict,
            *(number(each, 0) for each in figures.kib_a_token),
            number(several.allocated if several else None), several.verdict if several else "-",
            number(figures.seconds, 3), number(figures.tokens_a_second, 0), number(figures.tflops, 1), *shares,
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return [
        "| steps | tokens | planned GB | allocated GB | off | KiB a token, planned | allocated | 3 micro batches GB | off "
        "| s a step | tokens/s | TFLOP/s | MFU | of the matrix product |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]
