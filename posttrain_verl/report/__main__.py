"""The verb `report`: one self-contained page of a run, a sweep or a pipeline."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from posttrain_verl.report import page, rollouts, subjects
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.terminal import command_line
from posttrain_verl.verbs import Report


def write_report(folder: Path, other: Path | None = None, out: Path | None = None, limit: int = rollouts.LIMIT) -> Path:
    target = out or folder / "report.html"
    page.write_page(subjects.Reader(limit).page(folder, other), target)
    return target


def find_subject(name: str, home: Path) -> Path:
    """The folder of a run, sweep or pipeline: as a path, below `home`, or by what names a run.

    Raises:
        InputError: nothing or several things are named so.
    """
    for folder in (Path(name), home / name, home / "pipeline" / name, home / "multirun" / name):
        if subjects.is_subject(folder):
            return folder
    return RunFolder.find(name, home).path


def run(asked: Report) -> int:
    """The verb without its command line. Raises InputError."""
    home = Path(asked.runs_dir)
    folder = find_subject(asked.run, home)
    other = find_subject(asked.vs, home) if asked.vs else None
    began = time.perf_counter()
    out = write_report(folder, other, Path(asked.out) if asked.out else None, asked.rollouts)
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB, {time.perf_counter() - began:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(Report, run))
