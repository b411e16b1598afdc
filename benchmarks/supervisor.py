"""What following a run costs: CPU and memory of the supervisor, and of following a log of 1 GB.

    python benchmarks/supervisor.py [SECONDS]

The run is a driver that writes a log line a second and a step each two seconds, with 40 processes of its own.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from omegaconf import OmegaConf

from posttrain_verl import paths
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.run.output import follow_log, last_lines

DRIVER = """
import json, os, subprocess, sys, time
for _ in range(40):
    subprocess.Popen(["sleep", "600"])
step = 0
while True:
    step += 1
    with open(os.environ["VERL_FILE_LOGGER_PATH"], "a") as file:
        file.write(json.dumps({"step": step, "data": {"train/loss": 1.0 / step, "train/grad_norm": 1.0}}) + "\\n")
    for _ in range(2):
        print("a line of the log", flush=True)
        time.sleep(1)
"""


def supervised(folder: Path, seconds: float) -> tuple[float, float]:
    """Share of one core and MB of a supervisor over `seconds`."""
    (folder / "driver.py").write_text(DRIVER)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder / "driver.py"}"\n')
    python.chmod(0o755)
    run = RunFolder.create(folder / "runs" / "recipe" / "it")
    watch = OmegaConf.to_container(OmegaConf.load(paths.conf_dir() / "watch" / "default.yaml"))
    run.write_plan({"stage": "sft", "hardware": "cpu", "local_model": True, "watch": watch})
    run.write_config(OmegaConf.create({"trainer": {"default_local_dir": str(run.checkpoints)}}))
    variables = {**os.environ, "POSTTRAIN_WARM_PYTHON": str(python), "POSTTRAIN_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "posttrain_verl.run.supervise", str(run.path)]
    with subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL) as process:
        time.sleep(10)
        supervisor = psutil.Process(process.pid)
        before, began = sum(supervisor.cpu_times()[:2]), time.monotonic()
        time.sleep(seconds)
        used = (sum(supervisor.cpu_times()[:2]) - before) / (time.monotonic() - began)
        memory = supervisor.memory_info().rss / 1e6
        process.terminate()
    return used, memory


def follow_large(folder: Path, gigabytes: float = 1.0) -> tuple[float, float]:
    """Seconds for the last 50 lines of a log of this size, and for 1000 lines that come after."""
    log = folder / "log.txt"
    block = b"a line of a log that is as long as most of them are, give or take a word\n" * 14_000
    with log.open("wb") as file:
        while file.tell() < gigabytes * 1e9:
            file.write(block)
    began = time.perf_counter()
    last_lines(log, 50)
    last = time.perf_counter() - began

    def done():
        with log.open("a") as file:
            file.writelines("new\n" for _ in range(1000))
        yield True

    began = time.perf_counter()
    assert len(list(follow_log(log, done()))) == 1000
    return last, time.perf_counter() - began


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with tempfile.TemporaryDirectory() as folder:
        used, memory = supervised(Path(folder), seconds)
        print(f"supervisor: {used:.2%} of one core, {memory:.0f} MB, over {seconds:.0f} s")
        last, new = follow_large(Path(folder))
        print(f"log of 1 GB: its last 50 lines in {last * 1000:.1f} ms, 1000 new lines in {new * 1000:.1f} ms")


if __name__ == "__main__":
    main()
