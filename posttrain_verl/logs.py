"""The verb `logs`: what happened in a run, a line a step, or its raw log, and what follows."""

from __future__ import annotations

import itertools
import sys

from posttrain_verl import clusters, run_verbs
from posttrain_verl.run.digest import Digest, follow_digest
from posttrain_verl.run.folder import RUNNING, RunFolder
from posttrain_verl.run.output import follow_log, last_lines
from posttrain_verl.terminal import command_line
from posttrain_verl.verbs import Logs


def run(asked: Logs) -> int:
    """The verb without its command line. Raises InputError."""
    folder = RunFolder.find(asked.run, asked.runs_dir)
    if jobs := clusters.jobs_of(folder.read_status()):
        # What the launch on the cluster prints. What is here is older, and is shown where the cluster has nothing.
        lines, line = jobs.read_log(folder, asked.follow), None
        for line in lines if asked.follow else list(lines)[-asked.lines :]:
            print(line, flush=True)
        if line is not None:
            return 0
    if not folder.log.exists():
        print(f"{folder.log} does not exist yet", file=sys.stderr)
        return 1
    has_ended = (run_verbs.current_state(folder)[0] != RUNNING for _ in itertools.count())
    if asked.raw:
        shown, coming = last_lines(folder.log, asked.lines), follow_log(folder.log, has_ended)
    else:
        digest = Digest(folder)
        shown, coming = digest.read()[-asked.lines :], follow_digest(digest, has_ended)
    for line in itertools.chain(shown, coming if asked.follow else ()):
        print(line, flush=True)
    state, status = run_verbs.current_state(folder)
    if not asked.raw and not shown and not asked.follow:
        print(f"no step yet{f' ({status.stage})' if status.stage else ''}; raw=true shows the log", file=sys.stderr)
    if asked.follow or (state != RUNNING and not asked.raw):
        print(f"{state}{f': {status.why}' if status.why else ''}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(Logs, run))
