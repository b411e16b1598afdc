"""A driver of the test's own in the place of VeRL's: a Python program that gets the run folder as its last argument."""

import json
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from posttrain_verl import paths
from posttrain_verl.cpu import warm
from posttrain_verl.run.folder import RunFolder

sys.path.append(str(Path(__file__).parent))  # of driven.py

STEPS = """
import json, os, pathlib, sys, time
config = pathlib.Path(sys.argv[-1], "config.yaml").read_text()
def log(step, **data):
    with open(os.environ["VERL_FILE_LOGGER_PATH"], "a") as file:
        file.write(json.dumps({"step": step, "data": data}) + "\\n")
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A registry of runs that only this test has."""
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def python(tmp_path):
    """`python(program)` makes an executable that runs the program whatever it is asked to run."""

    def make(program):
        file = tmp_path / "driver.py"
        file.write_text(STEPS + program)
        shell = tmp_path / "bin" / "python"
        shell.parent.mkdir(exist_ok=True)
        shell.write_text(f'#!/bin/sh\nfor last; do :; done\nexec "{sys.executable}" "{file}" "$last"\n')
        shell.chmod(0o755)
        return str(shell)

    return make


@pytest.fixture
def prepared(tmp_path, monkeypatch, python):
    """`prepared(program, **watch)` is a run folder ready for its supervisor, with `program` for its driver."""

    def make(program, name="it", **watch):
        monkeypatch.setenv(warm.SWITCH, python(program))
        folder = RunFolder.create(tmp_path / "runs" / "recipe" / name)
        settings = OmegaConf.load(paths.conf_dir() / "watch" / "default.yaml")
        plan = {"stage": "sft", "hardware": "cpu", "local_model": True, "total_steps": None,
                "watch": OmegaConf.to_container(OmegaConf.merge(settings, watch))}  # fmt: skip
        folder.write_plan(plan)
        checkpoints = str(folder.checkpoints)
        folder.write_config(
            OmegaConf.create({
                "trainer": {"default_local_dir": checkpoints, "resume_mode": "auto", "resume_from_path": None,
                            "total_training_steps": None},
                "checkpoint": {"save_contents": ["model", "optimizer", "extra"]},
            })
        )  # fmt: skip
        return folder

    return make


@pytest.fixture
def steps():
    """The steps in metrics.jsonl, in order."""
    return lambda folder: [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]


@pytest.fixture
def save():
    """Writes the shards of a model as VeRL's FSDP engine does."""

    def write(folder, world=1):
        folder.mkdir(parents=True)
        for rank in range(world):
            for kind in ("model", "optim", "extra_state"):
                torch.save({"weight": torch.ones(100)}, folder / f"{kind}_world_size_{world}_rank_{rank}.pt")

    return write


@pytest.fixture
def sft(save):
    """Writes a checkpoint as VeRL's SFT trainer does."""

    def write(folder, step, world=1):
        save(folder / f"global_step_{step}", world)
        torch.save({"position": step}, folder / f"global_step_{step}" / "data_0.pt")

    return write
