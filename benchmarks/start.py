"""Seconds from the command to the first GRPO step of the tiny model: `python benchmarks/start.py [RUNS]`.

Times `python -m posttrain_verl.launch recipe=math_grpo base_model=tiny mix=embedded` until it prints `step 1:`, with and
without the warm Python, in turn. The first run fills the caches of models and data and is not counted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

WORDS = ["recipe=math_grpo", "base_model=tiny", "mix=embedded", "trainer.total_training_steps=1", "trainer.save_freq=-1",
         "trainer.test_freq=-1"]  # fmt: skip


def seconds_to_first_step(folder: str, warm: bool) -> float:
    """Run one launch to its end and return when it reported step 1."""
    command = [sys.executable, "-m", "posttrain_verl.launch", *WORDS, f"posttrain.runs_dir={folder}/runs",
               f"posttrain.data_dir={folder}/data", f"posttrain.run_id={time.time_ns()}"]  # fmt: skip
    environment = os.environ if warm else {**os.environ, "POSTTRAIN_WARM_PYTHON": "0"}
    started, first = time.monotonic(), 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 1:"):
                first = time.monotonic() - started
    if process.returncode or not first:
        raise SystemExit(f"the launch failed with exit code {process.returncode}")
    return first


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        seconds_to_first_step(folder, warm=True)
        pairs = [(seconds_to_first_step(folder, True), seconds_to_first_step(folder, False)) for _ in range(runs)]
    for name, values in zip(("warm Python", "plain Python"), zip(*pairs, strict=True), strict=True):
        print(f"{name:13s} {statistics.median(values):6.1f} s  ({min(values):.1f} to {max(values):.1f}, {runs} runs)")


if __name__ == "__main__":
    main()
