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

from posttrain_verl import launch, preflight
from posttrain_verl.compose import Composed, plain
from posttrain_verl.cpu.shared import warm_python
from posttrain_verl.problem import InputError, Problem
from posttrain_verl.rehearsal import derive, verdict
from posttrain_verl.rehearsal.verdict import Finding
from posttrain_verl.run import environment, session
from posttrain_verl.run.folder import DONE, INTERRUPTED, RunFolder, replace
from posttrain_verl.run.metrics import by_step

# What is looked at on the planned hardware; the other checks are about a machine and files that need not be here yet.
OF_THE_RECIPE = ("keys", "shape", "values", "batch", "engine", "training")


def rehearse(planned: Composed) -> int:
    """Rehearse a recipe composed for its hardware, print what was found, and return the exit code (0 or 1).

    Raises:
        InputError: the recipe itself is wrong, or its model's architecture is unknown here; nothing was trained.
    """
    others = [name for name in preflight.CHECKS if name not in OF_THE_RECIPE]
    preflight.require(preflight.run(planned, skip=others).problems, planned)
    os.environ.pop("RAY_ADDRESS", None)  # a rehearsal takes no cluster's devices
    home = _home(planned)
    seconds: dict[str, float] = {}
    with warm_python("cpu", home / "warm.txt"):
        with _timed(seconds, "tiny model"):
            facts = tiny_model(planned, home / "model")
        for line in (*_opening(planned, facts), f"rehearsal folder {home}"):
            launch.say(line)
        findings = _run(planned, home, seconds)
    return _conclude(planned, home, facts, findings, seconds)


def _run(planned: Composed, home: Path, seconds: dict[str, float]) -> list[Finding]:
    """Two steps with a checkpoint, and a third from it; what was seen of both."""
    first = derive.rehearsal(planned, home, home / "model", "first")
    with _timed(seconds, "first run"):
        done = _launched(first)
    folder = RunFolder(first.run_dir())
    findings = verdict.of_first(planned, folder, done)
    if not done:
        return findings
    seconds |= verdict.stage_seconds(by_step(folder.metrics))
    checkpoint = folder.checkpoints / f"global_step_{derive.STEPS}"
    again = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path='{checkpoint}'",
             f"trainer.total_training_steps={derive.STEPS + 1}", "trainer.test_freq=-1")  # fmt: skip
    second = derive.rehearsal(planned, home, home / "model", "resumed", *again)
    with _timed(seconds, "resumed run"):
        done = _launched(second)
    return [*findings, verdict.of_resumed(RunFolder(second.run_dir()), done)]


def _launched(composed: Composed) -> bool:
    """Run it to its end; whether it ended well. Ctrl-C ends the rehearsal, too."""
    state = session.conduct(launch.set_up(composed), launch.say).state
    if state == INTERRUPTED:
        raise KeyboardInterrupt
    return state == DONE


def tiny_model(planned: Composed, folder: Path) -> dict[str, Any]:
    """Build the tiny model in a process of its own; returns what `tiny_model.build` says of it.

    Raises:
        InputError: neither the folder, the hub's cache nor conf/base_model knows the model's config.json, or transformers
            cannot build a causal language model from it.
    """
    shape = planned.posttrain.base_model.get("config")
    command = [environment.python(), "-m", "posttrain_verl.rehearsal.tiny_model", str(folder), _source(planned),
               *([json.dumps(plain(shape))] if shape else [])]  # fmt: skip
    variables = environment.of_processes("cpu", local_model=True)
    built = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **variables})
    if built.returncode:
        reason = (built.stderr.strip() or "no message").splitlines()[-1]
        remedy = "give base_model a folder with config.json, or a file of conf/base_model with a `config:` node"
        raise InputError(
            f"recipe '{planned.recipe}' cannot be rehearsed", [Problem(f"{planned.model}: {reason}", remedy)]
        )
    return json.loads(built.stdout.splitlines()[-1])


def _source(planned: Composed) -> str:
    """The planned model as transformers can read it; an embedded one is built first."""
    return str(launch.prepare_model(planned) or planned.model)


def _home(planned: Composed) -> Path:
    runs = planned.run_dir().parents[1]
    home = runs / "rehearsals" / f"{planned.recipe}-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
    home.mkdir(parents=True)
    return home


def _opening(planned: Composed, facts: dict[str, Any]) -> list[str]:
    own = "its own data" if derive.has_its_data(planned) else "the recipe's data is not on this machine"
    return [
        f"rehearsing {planned.recipe} ({planned.stage}), planned for {planned.posttrain.hardware.name}, on the CPU backend",
        f"  model {planned.model}: {facts['architecture']} of {facts['parameters'] / 1e6:.2f} M random parameters, shape "
        f"from {facts['config']}, tokenizer and template {facts['tokenizer']}",
        f"  mix {derive.mix(planned)}: {own}",
    ]


def _conclude(
    planned: Composed, home: Path, facts: dict[str, Any], findings: list[Finding], seconds: dict[str, float]
) -> int:
    missing = verdict.not_rehearsed(planned, facts, derive.has_its_data(planned))
    for line in verdict.lines(findings, seconds, missing):
        launch.say(line)
    good = all(finding.good for finding in findings)
    written = {"recipe": planned.recipe, "overrides": planned.overrides, "good": good, "model": facts,
               "findings": [vars(finding) for finding in findings], "seconds": seconds, "not_rehearsed": missing}  # fmt: skip
    replace(home / "rehearsal.json", json.dumps(written, indent=2) + "\n")
    launch.say(f"recipe '{planned.recipe}' {'passed' if good else 'FAILED'} its rehearsal; everything is in {home}")
    return 0 if good else 1


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started, 1)
