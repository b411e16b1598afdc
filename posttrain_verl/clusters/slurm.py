"""`cluster=slurm`: an sbatch script that starts Ray on the nodes of an allocation and the launch on the first of them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from posttrain_verl import preflight
from posttrain_verl.clusters import words
from posttrain_verl.compose import Composed
from posttrain_verl.problem import InputError, Problem
from posttrain_verl.verl.placement import logical_cpus

WARNING_SECONDS = 120  # before the time of the allocation is up


def submit(composed: Composed, say: Callable[[str], None], dry_run: bool = False) -> int:
    """Write the script beside the run folder it will make, and hand it to sbatch; with `dry_run` print it only.

    Raises:
        InputError: the recipe has problems, the hardware is not named, or sbatch is missing or refuses the script.
    """
    words.require_named_hardware(composed)
    preflight.require(preflight.check(composed), composed)
    run_dir = composed.run_dir()
    text = script(composed, run_dir)
    if dry_run:
        say(text.rstrip())
        return 0
    file = run_dir.with_suffix(".sbatch")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    try:
        answer = subprocess.run(["sbatch", "--parsable", str(file)], capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        file.unlink()
        what = getattr(error, "stderr", "").strip() or "there is no sbatch on this machine"
        remedy = "launch on a login node of the cluster; --dry-run prints the script anywhere"
        raise InputError("nothing was handed to Slurm", [Problem(what, remedy)]) from None
    say(f"Slurm job {answer.stdout.strip()}; its output is {_output(run_dir)}, its run folder {run_dir}")
    return 0


def script(composed: Composed, run_dir: Path) -> str:
    """The sbatch script: options of Slurm, what this run is, and on_slurm.sh."""
    cluster = composed.posttrain.cluster
    python = cluster.python or sys.executable
    there = words.there(composed, run_dir.name, {"posttrain.runs_dir": words.value(str(run_dir.parents[1]))})
    launch = [python, "-m", "posttrain_verl.launch", *there]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in _options(composed, run_dir)),
        *cluster.setup,
        f"python={shlex.quote(python)}",
        f"ray_options=({shlex.join(_ray_options(composed))})",
        f"launch=({shlex.join(launch)})",
    ]
    return "\n".join(lines) + "\n\n" + Path(__file__).with_name("on_slurm.sh").read_text()


def _options(composed: Composed, run_dir: Path) -> list[str]:
    cluster, (nodes, devices) = composed.posttrain.cluster, words.devices(composed)
    options = [f"--job-name={composed.recipe}", f"--nodes={nodes}", "--ntasks-per-node=1", f"--time={cluster.time}",
               f"--output={_output(run_dir)}", f"--signal=B:TERM@{WARNING_SECONDS}"]  # fmt: skip
    if composed.posttrain.hardware.name != "cpu":
        options.append(f"--gpus-per-node={devices}")
    if cluster.cpus_per_node:
        options.append(f"--cpus-per-task={cluster.cpus_per_node}")
    return options + list(cluster.options)


def _ray_options(composed: Composed) -> list[str]:
    """The devices, which are logical ones on the CPU backend, and as many CPUs as VeRL asks for beside them."""
    devices = words.devices(composed)[1]
    return [f"--num-gpus={devices}", f"--num-cpus={logical_cpus(devices)}"]


def _output(run_dir: Path) -> Path:
    return run_dir.with_suffix(".slurm.txt")
