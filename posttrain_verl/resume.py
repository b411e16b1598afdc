"""The verb `resume` continues a run from its last whole checkpoint; it is `launch run=NAME` under its own name."""

from __future__ import annotations

import sys

from posttrain_verl import launch
from posttrain_verl.machine import interrupts
from posttrain_verl.terminal import command_line
from posttrain_verl.verbs import Resume


def run(asked: Resume) -> int:
    """The verb without its command line. Raises InputError."""
    interrupts.treat_as_ctrl_c()
    return launch.resume_run([f"run={asked.run}", f"posttrain.runs_dir={asked.runs_dir}", *asked.arguments])


if __name__ == "__main__":
    sys.exit(command_line.main(Resume, run))
