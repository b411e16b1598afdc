"""Rehearse a recipe before its GPUs are rented: `python -m posttrain_verl.check recipe=math_grpo hardware=8xh100 --rehearse`.

The same recipe on the CPU backend with a tiny random model of the same architecture: two steps, a validation, a checkpoint, and
a third step in a new process that resumes from it. What it cannot show is listed with the verdict.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from posttrain_verl import preflight
from posttrain_verl.compose import to_plain_dict
from posttrain_verl.cpu import warm
from posttrain_verl.paths import write_atomically
from posttrain_verl.rehearse import small_run
from posttrain_verl.rehearse.small_run import Finding
from posttrain_verl.run import environment, prepare, supervise
from posttrain_verl.run.folder import DONE, INTERRUPTED, RunFolder
from posttrain_verl.run.output import metrics_by_step
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verl.checkpoints import step_folder
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.stage import Settings

# What is looked at on the planned hardware; the other checks are about a machine and files that need not be here yet.
RECIPE_CHECKS = ("keys", "shape", "values", "batch", "engine", "training")


def rehearse_recipe(planned: Composed) -> int:
    """Rehearse a recipe composed for its hardware, print what was found, and return the exit code (0 or 1).

    Raises:
        InputError: the recipe itself is wrong, or its model's architecture is unknown here; nothing was trained.
    """
    others = [name for name in preflight.CHECKS if name not in RECIPE_CHECKS]
    preflight.raise_if_blocked(preflight.run_checks(planned, skip=others).problems, planned)
    os.environ.pop("RAY_ADDRESS", None)  # a rehearsal takes no cluster's devices
    recipe, own_data = planned.recipe, small_run.has_own_data(planned)
    name = f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
    home = planned.run_dir().parents[1] / "rehearsals" / name
    home.mkdir(parents=True)
    seconds: dict[str, float] = {}
    with warm.started(environment.process_variables("cpu", local_model=True), home / "warm.txt", os.environ):
        with _measure_seconds(seconds, "tiny model"):
            facts = build_tiny_model(planned, home / "model")
        where = "its own data" if own_data else "its data is not on this machine"
        hardware = planned.posttrain.hardware.name
        log.info(f"rehearsing {recipe} ({planned.stage.name}), planned for {hardware}, on the CPU backend")
        size = f"{facts['architecture']} of {facts['parameters'] / 1e6:.2f} M random parameters"
        origins = f"shape from {facts['config']}, tokenizer and template {facts['tokenizer']}"
        log.info(f"  model {planned.model}: {size}, {origins}")
        log.info(f"  mix {small_run.rehearsal_mix(planned)}: {where}")
        log.info(f"rehearsal folder {home}")
        findings = _run_twice(planned, home, seconds)
    missing = small_run.not_rehearsed(planned, facts, own_data)
    for line in small_run.report_lines(findings, seconds, missing):
        log.info(line)
    good = all(finding.good for finding in findings)
    written = {"recipe": recipe, "overrides": planned.overrides, "good": good, "model": facts,
               "findings": [vars(finding) for finding in findings], "seconds": seconds, "not_rehearsed": missing}  # fmt: skip
    write_atomically(home / "rehearsal.json", json.dumps(written, indent=2) + "\n")
    log.info(f"recipe '{recipe}' {'passed' if good else 'FAILED'} its rehearsal; everything is in {home}")
    return 0 if good else 1


def _run_twice(planned: Composed, home: Path, seconds: dict[str, float]) -> list[Finding]:
    """Two steps with a checkpoint, and a third from it; what was seen of both."""
    first = small_run.compose_rehearsal(planned, home, home / "model", "first")
    with _measure_seconds(seconds, "first run"):
        done = _launch_to_end(first)
    folder = RunFolder(first.run_dir())
    findings = small_run.first_findings(planned, folder, done)
    if not done:
        return findings
    seconds |= small_run.stage_seconds(metrics_by_step(folder.metrics))
    checkpoint = step_folder(folder.checkpoints, small_run.STEPS)
    again = Settings.assign_all({"resume_mode": "resume_path", "resume_path": f"'{checkpoint}'",
                                 "total_steps": small_run.STEPS + 1, "validate_every": -1})  # fmt: skip
    second = small_run.compose_rehearsal(planned, home, home / "model", "resumed", *again)
    with _measure_seconds(seconds, "resumed run"):
        done = _launch_to_end(second)
    return [*findings, small_run.resumed_finding(RunFolder(second.run_dir()), done)]


def _launch_to_end(composed: Composed) -> bool:
    """Run a launch to its end. Returns whether it ended well. Ctrl-C ends the rehearsal, too."""
    state = supervise.supervise_run(prepare.set_up_run(composed)).state
    if state == INTERRUPTED:
        raise KeyboardInterrupt
    return state == DONE


def build_tiny_model(planned: Composed, folder: Path) -> dict[str, Any]:
    """Build the tiny model in a process of its own; returns what `tiny_model.build_model` says of it.

    Raises:
        InputError: neither the folder, the hub's cache nor conf/base_model knows the model's config.json, or transformers
            cannot build a causal language model from it.
    """
    shape = planned.posttrain.base_model.get("config")
    model = str(prepare.prepare_model(planned)[0] or planned.model)  # an embedded one is built first
    command = [warm.python(), "-m", "posttrain_verl.rehearse.tiny_model", str(folder), model]
    command += [json.dumps(to_plain_dict(shape))] if shape else []
    variables = environment.process_variables("cpu", local_model=True)
    built = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **variables})
    if built.returncode:
        reason = (built.stderr.strip() or "no message").splitlines()[-1]
        remedy = "give base_model a folder with config.json, or a file of conf/base_model with a `config:` node"
        problem = Problem(f"{planned.model}: {reason}", remedy)
        raise InputError(f"recipe '{planned.recipe}' cannot be rehearsed", [problem])
    return json.loads(built.stdout.splitlines()[-1])


@contextmanager
def _measure_seconds(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started, 1)
