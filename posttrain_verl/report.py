"""One page of a run: `python -m posttrain_verl.report run=ID [vs=ID] [rollouts=100000] [posttrain.out=FILE]`.

`run` is a run's folder, `<recipe>/<id>`, id, or recipe (its newest run), or the folder of a pipeline or sweep. Writes
one self-contained HTML file, `report.html` in that folder: whether the gain is real, the curves, what the watch saw, plan and
data, and a reader of the rollouts. `vs` is the run or pipeline to compare with: on the same questions, paired.
Exit codes: 0 done, 2 the input is wrong, 130 interrupted.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from posttrain_verl import options
from posttrain_verl.problem import InputError, Problem, exit_code
from posttrain_verl.reporting import page, rollouts, subjects
from posttrain_verl.run.folder import RunFolder

OPTIONS = {"run": "", "vs": "", "rollouts": str(rollouts.LIMIT), "posttrain.out": "", "posttrain.runs_dir": "runs"}


def report(folder: Path, other: Path | None = None, out: Path | None = None, limit: int = rollouts.LIMIT) -> Path:
    """Write the page of a folder and return where it lies."""
    target = out or folder / "report.html"
    page.write(subjects.Reader(limit).page(folder, other), target)
    return target


def read_arguments(words: list[str]) -> dict[str, str]:
    """The options of the command line.

    Raises:
        InputError: a word is no `key=value` of OPTIONS, `run` is missing, or `rollouts` is no number.
    """
    given, problems = options.read("report", words, OPTIONS)
    if not given["run"]:
        problems.append(Problem("run= is missing", "add run=ID, or run=FOLDER"))
    if not given["rollouts"].isdecimal():
        problems.append(Problem(f"rollouts={given['rollouts']} is no number", "write rollouts=100000"))
    problems += options.output("posttrain.out", given["posttrain.out"])
    if problems:
        raise InputError("nothing to report", problems)
    return given


def find(name: str, home: Path) -> Path:
    """The folder of a run, sweep or pipeline: as a path, below `home`, or by what names a run.

    Raises:
        InputError: nothing or several things are named so.
    """
    for folder in (Path(name), home / name, home / "pipeline" / name, home / "multirun" / name):
        if subjects.is_subject(folder):
            return folder
    return RunFolder.find(name, home).path


def run(words: list[str]) -> int:
    """The verb without its command line. Raises InputError."""
    given = read_arguments(words)
    home = Path(given["posttrain.runs_dir"])
    folder = find(given["run"], home)
    other = find(given["vs"], home) if given["vs"] else None
    began = time.perf_counter()
    out = report(
        folder, other, Path(given["posttrain.out"]) if given["posttrain.out"] else None, int(given["rollouts"])
    )
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB, {time.perf_counter() - began:.1f} s)")
    return 0


def main() -> int:
    """The verb."""
    words = options.parser("report", __doc__).parse_args().words
    return exit_code(lambda: run(words))


if __name__ == "__main__":
    sys.exit(main())
