"""The verb `pipeline`: the whole way from data to a report, resumed where it ended.

Arguments that begin with the name of a stage, such as `sft:`, or with `evaluate:` are for it alone. The folder is
`<posttrain.runs_dir>/pipeline/<recipe>/<id>`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from posttrain_verl import preflight, verbs
from posttrain_verl.cpu import warm
from posttrain_verl.evaluate import comparison
from posttrain_verl.evaluate.result import headline
from posttrain_verl.machine import interrupts
from posttrain_verl.pipeline.entry import Journal, Pipeline, Spec, adopt_former_names, call_verb
from posttrain_verl.pipeline.reading import read_spec
from posttrain_verl.pipeline.stages import all_steps
from posttrain_verl.run import environment
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import log, stdout


def run_stages(spec: Spec) -> Path:
    """Every stage that is not done yet, in order; returns the folder of the pipeline.

    Raises:
        InputError: a stage cannot begin; StageFailed: one ended badly.
    """
    home = spec.runs_dir / "pipeline" / spec.name / spec.run_id
    adopt_former_names(home, spec.stages[0].name)
    it = Pipeline(spec, home, Journal(home, {"name": spec.name, "id": spec.run_id}))
    for composed in it.launches():  # a wrong override for the last stage should show now, not when the others are done
        preflight.raise_if_blocked(preflight.config_form.check_keys(composed), composed)
    home.mkdir(parents=True, exist_ok=True)
    variables = environment.process_variables(it.launches()[0].posttrain.hardware.name, local_model=True)
    with warm.started(variables, home / "warm.log", os.environ):
        for name, work in all_steps(it):
            log.info(f"== {name}")
            with it.journal.stage(name):
                work()
    if spec.report:  # not a stage: it says how they ended
        call_verb("report", [f"run={home}"])
    return home


def show_accuracy(home: Path, console: Console) -> None:
    """Accuracy of the base and of each stage with the kinds of their wrong answers, and a sentence for each pair."""
    results = comparison.load_results([str(home / "eval")])
    figures = " or ".join(sorted({headline(result)[0] for result in results.values()}))
    table = Table("model", "set", f"{figures} [95 %]", "n", "wrong answers")
    for result in results.values():
        name, found = headline(result)
        kinds = ", ".join(f"{count} {kind}" for kind, count in result["errors"].items() if count)
        table.add_row(result["label"], result["eval"], comparison.format_interval(found, name), str(found["n"]), kinds)
    console.print(table)
    for each in comparison.compare_results(results):
        console.print(escape(each.sentence()), style="bold")


def run(asked: verbs.Pipeline) -> int:
    """Run the pipeline, then print how good its models are. Raises InputError and StageFailed."""
    interrupts.treat_as_ctrl_c()  # a scheduler's stop ends the launch in order
    began = time.monotonic()
    home = run_stages(read_spec(asked))
    show_accuracy(home, stdout())
    log.info(f"{(time.monotonic() - began) / 60:.1f} minutes; runs, evaluations, export and report.html lie in {home}")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(verbs.Pipeline, run))
