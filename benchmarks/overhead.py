"""What our launch adds to bare VeRL: `python benchmarks/overhead.py [STEPS]`.

The same composed config (the run folder's config.yaml: GRPO of the tiny model on the embedded mix) goes to `python -m
verl.trainer.main_ppo` and through `launch`, the latter also without its warm Python. Start: seconds from the command to
the metrics of step 1. Step: median seconds between the metrics of one step and the next, as a reader of the file sees them.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from posttrain_verl.run import environment
from posttrain_verl.verl.stage import logical_cpus

# The tiny model is never right, which the watch would end after ten steps.
WORDS = ["recipe=math_grpo", "base_model=tiny", "mix=embedded", "trainer.save_freq=-1", "trainer.test_freq=-1",
         "posttrain.watch.no_variance.do=off"]  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Seconds from the command to step 1, and from each step to the next."""

    start: float
    steps: list[float]


def follow(command: Sequence[str], variables: Mapping[str, str], metrics: Path, log: Path) -> Measured:
    """Run `command` to its end and note when each line of `metrics` came."""
    started, seen = time.monotonic(), []
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **variables}) as run,
    ):
        while run.poll() is None:
            lines = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
            seen += [time.monotonic() - started] * (lines - len(seen))
            time.sleep(0.02)
    if run.returncode or len(seen) < 2:
        raise SystemExit(f"exit code {run.returncode} after {len(seen)} steps:\n{log.read_text()[-2000:]}")
    return Measured(seen[0], [after - before for before, after in pairwise(seen)])


def ours(folder: Path, name: str, steps: int, variables: Mapping[str, str]) -> Measured:
    words = [*WORDS, f"posttrain.runs_dir={folder}/runs", f"posttrain.data_dir={folder}/data", f"posttrain.run_id={name}",
             f"trainer.total_training_steps={steps}"]  # fmt: skip
    command = [sys.executable, "-m", "posttrain_verl.launch", *words]
    return follow(command, variables, folder / "runs/math_grpo" / name / "metrics.jsonl", folder / f"{name}.log")


def bare(folder: Path, of_run: str) -> Measured:
    """VeRL's own command on the config that the run `of_run` got, with the devices its Ray had."""
    variables = environment.process_variables("cpu", local_model=True) | environment.temporary_variables(folder)
    variables["VERL_FILE_LOGGER_PATH"] = f"{folder}/bare.jsonl"
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-path", f"{folder}/runs/math_grpo/{of_run}",
               "--config-name", "config", f"ray_kwargs.ray_init.num_cpus={logical_cpus(1)}",
               "+ray_kwargs.ray_init.num_gpus=1", "+ray_kwargs.ray_init.include_dashboard=false",
               "transfer_queue.enable=true", f"hydra.run.dir={folder}",
               f"trainer.default_local_dir={folder}/bare"]  # fmt: skip
    return follow(command, variables, folder / "bare.jsonl", folder / "bare.log")


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours(folder, "caches", 2, {})  # fills the caches of models and data; not counted
        measured = {
            "launch": ours(folder, "warm", steps, {}),
            "launch, plain Python": ours(folder, "plain", steps, {"POSTTRAIN_WARM_PYTHON": "0"}),
            "verl.trainer.main_ppo": bare(folder, "plain"),
        }
    base = measured["verl.trainer.main_ppo"]
    for side, one in measured.items():
        step, against = statistics.median(one.steps), statistics.median(one.steps) / statistics.median(base.steps) - 1
        print(f"{side:22s} first step after {one.start:6.1f} s ({one.start - base.start:+6.1f}), "
              f"then {step:.2f} s a step ({against:+.1%})")  # fmt: skip


if __name__ == "__main__":
    main()
