"""`cluster=slurm`: an sbatch script that starts Ray on the nodes of an allocation and the launch on the first of them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from posttrain_verl import preflight
from posttrain_verl.clusters import Cluster, remote_launch
from posttrain_verl.paths import beside
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.stage import logical_cpus

WARNING_SECONDS = 120  # before the time of the allocation ends


def submit_launch(composed: Composed) -> int:
    """Write the script beside the run folder it will make, and hand it to sbatch.

    Raises:
        InputError: the recipe has problems, the hardware is not named, or sbatch is missing or rejects the script.
    """
    run_dir = composed.run_dir()
    text = show_script(composed, run_dir)
    file = beside(run_dir, ".sbatch")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    try:
        answer = subprocess.run(["sbatch", "--parsable", str(file)], capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        file.unlink()
        what = getattr(error, "stderr", "").strip() or "there is no sbatch on this machine"
        remedy = "launch on a login node of the cluster; --dry-run prints the script anywhere"
        raise InputError("nothing was handed to Slurm", [Problem(what, remedy)]) from None
    log.info(f"Slurm job {answer.stdout.strip()}; its output is {_output_file(run_dir)}, its run folder {run_dir}")
    return 0


def show_script(composed: Composed, run_dir: Path | None = None) -> str:
    """The script of a launch that has no problems. Raises InputError as `submit_launch` does."""
    remote_launch.require_named_hardware(composed)
    preflight.raise_if_blocked(preflight.find_problems(composed), composed)
    return sbatch_script(composed, run_dir or composed.run_dir())


def sbatch_script(composed: Composed, run_dir: Path) -> str:
    """The sbatch script: options of Slurm, the launch with its Ray, and on_slurm.sh.

    On the CPU backend the devices are logical ones. Ray gets as many CPUs as VeRL asks for beside them.
    """
    cluster, (nodes, devices) = composed.posttrain.cluster, remote_launch.node_devices(composed)
    options = [f"--job-name={composed.recipe}", f"--nodes={nodes}", "--ntasks-per-node=1", f"--time={cluster.time}",
               f"--output={_output_file(run_dir)}", f"--signal=B:TERM@{WARNING_SECONDS}"]  # fmt: skip
    if composed.posttrain.hardware.name != "cpu":
        options.append(f"--gpus-per-node={devices}")
    if cluster.cpus_per_node:
        options.append(f"--cpus-per-task={cluster.cpus_per_node}")
    python = cluster.python or sys.executable
    replaced = {"posttrain.runs_dir": remote_launch.hydra_value(str(run_dir.parents[1]))}
    replaced |= {group: str(composed.files[group]) for group in remote_launch.named_options(composed)}
    overrides = remote_launch.remote_overrides(composed, run_dir.name, replaced)
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in [*options, *cluster.options]),
        *cluster.setup,
        f"python={shlex.quote(python)}",
        f"ray_options=(--num-gpus={devices} --num-cpus={logical_cpus(devices)})",
        f"launch=({shlex.join([python, '-m', 'posttrain_verl.launch', *overrides])})",
    ]
    return "\n".join(lines) + "\n\n" + Path(__file__).with_name("on_slurm.sh").read_text()


def _output_file(run_dir: Path) -> Path:
    return beside(run_dir, ".slurm.txt")


CLUSTER = Cluster(submit_launch, show_script)
