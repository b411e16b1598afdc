"""The verb `stop`: the supervisor of a run ends its process tree. Where it is gone, the run's record says what to clear."""

from __future__ import annotations

import sys

from posttrain_verl import run_verbs
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.terminal import command_line
from posttrain_verl.verbs import Stop


def run(asked: Stop) -> int:
    """The verb without its command line. Raises InputError."""
    ended, did = run_verbs.stop_run(RunFolder.find(asked.run, asked.runs_dir))
    print(did)
    return 0 if ended else 1


if __name__ == "__main__":
    sys.exit(command_line.main(Stop, run))
