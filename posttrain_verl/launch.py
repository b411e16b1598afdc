"""Run a recipe: `python -m posttrain_verl.launch recipe=math_grpo [key=value ...]`.

Composes VeRL's config, says what the hardware changed, checks everything that can be checked, builds the embedded model and
data where they are missing, and runs VeRL on Ray, here or on the cluster that `cluster=` names. Everything the run knows lies
in its run folder.

`launch run=NAME [key=value ...]` resumes a run from its last whole checkpoint; `-m key=a,b` runs a sweep.
Exit codes: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted.
"""

from __future__ import annotations

import sys

from posttrain_verl import clusters, recipe_verbs, run_verbs
from posttrain_verl.machine import interrupts
from posttrain_verl.overrides import expand_keys
from posttrain_verl.preflight import overview
from posttrain_verl.run import resume, supervise
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import log
from posttrain_verl.verbs import Launch
from posttrain_verl.verl.composed import Composed


def run(asked: Launch) -> int:
    """The verb without its command line. Raises InputError."""
    interrupts.treat_as_ctrl_c()
    if any(argument.startswith("run=") for argument in asked.arguments):
        return resume_run(list(asked.arguments))

    def launch(composed: Composed) -> int:
        composed = recipe_verbs.export_weights(composed)
        if not asked.dry_run:
            for line in overview.overview_lines(composed, asked.changes):
                log.info(line)
        return clusters.submit_launch(composed, asked.dry_run)

    return recipe_verbs.run(asked, launch)


def resume_run(arguments: list[str]) -> int:
    """`launch run=NAME [key=value ...]`: resume a run from its last whole checkpoint, and return the exit code.

    The config is that of the run folder and is not composed again. Keys of VeRL and of `posttrain.watch` can be overridden.
    A run that was a job of a cluster resumes there, as another job.

    Raises:
        InputError: there is no such run, or it cannot be resumed.
    """
    asked = resume.read_request(expand_keys(arguments))
    folder = RunFolder.find(asked.run, asked.runs_dir)
    if jobs := clusters.jobs_of(folder.read_status()):
        return jobs.resume(folder, asked)
    if not run_verbs.prepare_resume(folder, asked):
        return 0
    return supervise.hand_over(folder, asked.detach)


if __name__ == "__main__":
    sys.exit(command_line.main(Launch, run))
