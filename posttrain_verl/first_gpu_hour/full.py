"""The full mode: tests marked gpu, then `check` and two real steps of the smallest SFT, GRPO and LoRA recipes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from posttrain_verl.first_gpu_hour import allocation
from posttrain_verl.first_gpu_hour.parts import FAILED, NOT_RUN, PASSED, TAIL, Execute, Part, run_parts
from posttrain_verl.plan.hardware import Machine
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.metrics import by_step, step_line

TWO_STEPS = ("mix=embedded", "trainer.total_training_steps=2", "trainer.save_freq=2", "trainer.test_freq=-1")
RL = ("data.train_batch_size=64", "actor_rollout_ref.actor.ppo_mini_batch_size=32", "trainer.val_before_train=false",
      "actor_rollout_ref.rollout.tensor_model_parallel_size=1")  # fmt: skip
RUNS = {
    "SFT": ("recipe=math_sft", *TWO_STEPS),
    "GRPO": ("recipe=gsm8k_grpo", *TWO_STEPS, *RL),
    "LoRA": ("recipe=math_grpo_lora", *TWO_STEPS, *RL),
}
# For the CPU, where sizes are its own.
SMALL = ("data.train_batch_size=8", "actor_rollout_ref.actor.ppo_mini_batch_size=8")
TESTS = "tests"
# Shares of the budget. The tests launch five runs, and rollouts take longest to start.
SHARES = {TESTS: 30.0, "check": 1.0, "train SFT": 6.0, "train GRPO": 12.0, "train LoRA": 12.0}


def run(
    models: Sequence[str], home: Path, machine: Machine, seconds: float, execute: Execute
) -> tuple[list[Part], list[str]]:
    """Every part, in `seconds`, and the table of memory."""
    made = parts(models[0], home, machine.name == "cpu")
    run_parts(made, seconds, home, execute, lambda part: _read(part, home))
    memories = {part.name: part.memory for part in made if part.memory}
    return made, ["## Memory of one GPU, planned and allocated", "", *allocation.table(memories)]


def parts(model: str, home: Path, cpu: bool) -> list[Part]:
    """What is to be run. On a CPU there are no tests: each of them would be skipped."""
    results = home / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={results}", "tests/gpu"]
    made = [] if cpu else [Part(TESTS, command, SHARES[TESTS])]
    for name, words in RUNS.items():
        ours = [*words, f"base_model={model}", f"posttrain.runs_dir={home}", f"posttrain.data_dir={home / 'data'}",
                f"posttrain.run_id={name.lower()}", *(SMALL if cpu and name != "SFT" else ())]  # fmt: skip
        made.append(Part(f"check {name}", [sys.executable, "-m", "posttrain_verl.check", *ours], SHARES["check"]))
        train = [sys.executable, "-m", "posttrain_verl.launch", *ours]
        made.append(Part(f"train {name}", train, SHARES[f"train {name}"]))
    return made


def _read(part: Part, home: Path) -> None:
    """What a part left besides its exit code."""
    if part.name == TESTS:
        _count_tests(part, home / "tests.xml")
    elif part.name.startswith("train "):
        _read_run(part, home)


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
    words = part.command[3:]
    recipe, name = words[0].partition("=")[2], part.name.removeprefix("train ").lower()
    folder = RunFolder(home / recipe / name)
    if folder.metrics.is_file():
        part.memory = allocation.compare(words, folder)
    if part.state == PASSED and folder.metrics.is_file():
        part.lines = [step_line(step, metrics) for step, metrics in by_step(folder.metrics).items()]
    elif folder.log.is_file():
        end = folder.log.read_text(errors="replace").splitlines()[-TAIL:]
        part.lines += ["", f"the end of {folder.log.name}:", *end]
