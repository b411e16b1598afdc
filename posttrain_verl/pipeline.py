"""The whole way in one command: `python -m posttrain_verl.pipeline recipe=NAME [seed=N] [key=value ...]`.

A pipeline (a file of conf/pipeline: demo, demo_smollm2, math, code) builds its data, waits until somebody has looked at it,
trains SFT until the held-out loss is on its plateau, goes on with GRPO from the best checkpoint, answers the same questions
with base, SFT and RL, exports, and writes a report. `sft:key=value`, `rl:key=value` and `evaluate:key=value` are for one
stage, other keys for both launches; `id=NAME` names the folder, `<posttrain.runs_dir>/pipeline/<recipe>/<id>`. What is done
is not done again: the same command goes on after a kill.
Exit codes: 0 done, 1 a stage failed, 2 the input is wrong, 130 interrupted.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from posttrain_verl import options, preflight
from posttrain_verl.console import stdout
from posttrain_verl.cpu.shared import warm_python
from posttrain_verl.evaluation import comparison
from posttrain_verl.evaluation.result import Result
from posttrain_verl.pipelines import spec as specs
from posttrain_verl.pipelines import stages
from posttrain_verl.pipelines.journal import Journal
from posttrain_verl.pipelines.stages import Pipeline
from posttrain_verl.problem import InputError, exit_code
from posttrain_verl.run import interrupts
from posttrain_verl.statistics import Share


def run(spec: specs.Spec) -> Path:
    """Every stage that is not done yet, in order; returns the folder of the pipeline.

    Raises:
        InputError: a stage cannot begin; StageFailed: one ended badly.
    """
    runs = Path(specs.value_of(spec.words.get("all", []), "posttrain.runs_dir", "runs")).expanduser().absolute()
    spec.words["all"] = [word for word in spec.words.get("all", []) if not word.startswith("posttrain.runs_dir=")]
    if problems := options.folder("posttrain.runs_dir", str(runs)):
        raise InputError(specs.TITLE, problems)
    home = runs / "pipeline" / spec.name / spec.id
    it = Pipeline(spec, home, Journal(home, {"name": spec.name, "id": spec.id}), say)
    for composed in map(it.composed, ("sft", "rl")):  # a mistake in a word for RL should not show when SFT is done
        preflight.require(preflight.keys.check(composed), composed)
    home.mkdir(parents=True, exist_ok=True)
    with warm_python(it.composed("sft").posttrain.hardware.name, home / "warm.log"):
        for name, stage in stages.of(spec):
            say(f"== {name}")
            with it.journal.stage(name):
                stage(it)
    if spec.report:  # no stage of its own: it tells how they ended
        stages.report(it)
    return home


def say(line: str) -> None:
    print(line, flush=True)


def show(home: Path, console: Console) -> None:
    """Accuracy of base, SFT and RL, and a sentence for each pair."""
    results = comparison.load([str(home / "eval")])
    console.print(table(results))
    for each in comparison.compare(results):
        console.print(escape(each.sentence()), style="bold")


def table(results: dict[str, Result]) -> Table:
    """The accuracy of each evaluation with its interval, and the kinds of its wrong answers."""
    drawn = Table("model", "set", "accuracy [95 %]", "n", "wrong answers")
    for result in results.values():
        found = result["metrics"]["accuracy"]
        kinds = ", ".join(f"{count} {kind}" for kind, count in result["errors"].items() if count)
        drawn.add_row(result["label"], result["eval"], str(Share(**found)), str(found["n"]), kinds)
    return drawn


def main() -> int:
    """The verb."""
    interrupts.as_ctrl_c()  # a scheduler's stop ends the launch within as it should, and not under its feet
    words = options.parser("pipeline", __doc__).parse_args().words
    return exit_code(lambda: run_and_show(specs.read(words)), goes_on="the same command goes on from there")


def run_and_show(spec: specs.Spec) -> int:
    """Run the pipeline, then print how good its models are. Raises InputError and StageFailed."""
    began = time.monotonic()
    home = run(spec)
    show(home, stdout())
    say(f"{(time.monotonic() - began) / 60:.1f} minutes; runs, evaluations, export and report.html lie in {home}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
