"""The whole way in one command: `python -m posttrain_verl.demo [base_model=nano_2m] [seed=1]`.

SFT, then GRPO from its checkpoint, then base, SFT and GRPO on the same held-out items with intervals and paired tests. The
default model is our own of 1.8 M parameters, trained from random weights; `base_model=smollm2_135m` takes the same way
with a real pretrained one (longer).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from posttrain_verl import base_models, launch
from posttrain_verl.compose import Composed, compose
from posttrain_verl.cpu import zygote
from posttrain_verl.evaluate import verdicts
from posttrain_verl.problem import InputError, Problem
from posttrain_verl.run import environment
from posttrain_verl.run.folder import DONE, RunFolder
from posttrain_verl.statistics import paired, share

RECIPES = {"nano_2m": ("demo_sft", "demo_grpo"), "smollm2_135m": ("demo_smollm2_sft", "demo_smollm2_grpo")}


class Failed(Exception):
    """A stage of the demo did not end well; its own last line said why."""


def run(model: str, seed: int, overrides: list[str]) -> Path:
    """Train and evaluate; returns the folder with the evaluations and the two runs."""
    home = Path("runs") / "demo" / f"{model}-seed{seed}-{datetime.now():%Y%m%d-%H%M%S}"
    home.mkdir(parents=True)
    with warm(home / "warm.log"):
        train_and_evaluate(home, model, seed, overrides)
    return home


def train_and_evaluate(home: Path, model: str, seed: int, overrides: list[str]) -> None:
    """SFT, GRPO from its checkpoint, and the three evaluations, all in `home`."""
    common = [
        f"posttrain.runs_dir={home}",
        f"posttrain.data_dir=data/seed{seed}",
        f"posttrain.mix.seed={seed}",
        *overrides,
    ]
    sft, grpo = RECIPES[model]
    first = stage(compose([f"recipe={sft}", "posttrain.run_id=0", *common]))
    second = stage(compose([f"recipe={grpo}", "posttrain.run_id=0", f"base_model={first}", f"data.seed={seed}",
                            f"actor_rollout_ref.rollout.seed={seed}", *common]))  # fmt: skip
    questions = Path(f"data/seed{seed}/embedded/test.parquet")
    for name, folder in {"base": base_models.ensure(model), "sft": first, "grpo": second}.items():
        evaluate(folder, questions, home / "eval" / f"{name}.json")


@contextmanager
def warm(log: Path) -> Iterator[None]:
    """One warm Python for all the stages."""
    with log.open("wb") as out, zygote.warm(environment.of_processes("cpu", local_model=True), out) as python:
        os.environ[environment.WARM_PYTHON] = str(python)
        yield
        del os.environ[environment.WARM_PYTHON]


def stage(composed: Composed) -> Path:
    """Launch one recipe and return the Hugging Face folder it left."""
    if launch.launch(composed).state != DONE:
        raise Failed
    return RunFolder(composed.run_dir()).hf_folder(composed.stage)


def evaluate(model: Path, questions: Path, out: Path) -> None:
    """Evaluate in a process of its own, so that its memory is free again for the next."""
    print(f"evaluating {model}", flush=True)
    command = [environment.python(), "-m", "posttrain_verl.evaluate", f"base_model={model}", f"eval={questions}",
               f"posttrain.out={out}", "max_tokens=64"]  # fmt: skip
    out.parent.mkdir(exist_ok=True)
    with out.with_suffix(".log").open("wb") as log:
        if subprocess.run(command, stdout=log, stderr=log, check=False).returncode:
            print(f"failed: the log is {log.name}", file=sys.stderr)
            raise Failed


def table(home: Path) -> Table:
    """Accuracy of each model, and each against the one before it on the same items."""
    result = Table("model", "accuracy [95 % Wilson]", "n", "gained", "lost", "McNemar p", title="held-out items")
    before = None
    for name in ("base", "sft", "grpo"):
        right = verdicts(home / "eval" / f"{name}.json")
        measured = share(list(right.values()))
        cells = ["", "", ""]
        if before is not None:
            test = paired(before, right)
            cells = [str(test.gained), str(test.lost), f"{test.p:.2g}"]
        result.add_row(name, str(measured), str(measured.n), *cells)
        before = right
    return result


def main() -> int:
    started = time.monotonic()
    given = OmegaConf.from_dotlist([word for word in sys.argv[1:] if word.split("=")[0] in ("base_model", "seed")])
    model, seed = given.get("base_model", "nano_2m"), int(given.get("seed", 1))
    rest = [word for word in sys.argv[1:] if word.split("=")[0] not in ("base_model", "seed")]
    try:
        if model not in RECIPES:
            raise InputError("no demo", [Problem(f"base_model={model}", f"there are: {', '.join(RECIPES)}")])
        home = run(model, seed, rest)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except Failed:
        return 1
    except KeyboardInterrupt:
        return 130
    Console().print(table(home))
    print(
        f"{(time.monotonic() - started) / 60:.1f} minutes; runs and evaluations lie in {home}, data in data/seed{seed}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
