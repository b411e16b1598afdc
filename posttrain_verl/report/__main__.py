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
    """Write the page of a folder, which is returned. A sweep links those of its members: what is missing is written first.

    `other` is what `subjects.Reader.page` compares with. Raises InputError: it does not hold anything to compare with.
    """
    target, reader = out or folder / page.REPORT, subjects.Reader(limit)
    for member in subjects.member_folders(folder) if subjects.subject_kind(folder)[0] == "sweep" else []:
        if subjects.is_subject(member) and page.is_outdated(member):
            page.write_page(reader.page(member), member / page.REPORT)
    page.write_page(reader.page(folder, other), target)
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


def find_rival(name: str, home: Path) -> Path:
    """What `vs=` names: a file of results, a folder of them, or what `run=` may name too.

    Raises:
        InputError: nothing or several things are named so.
    """
    place = Path(name).expanduser()
    is_results = place.is_file() or place.suffix == ".json" or (place.is_dir() and not subjects.is_subject(place))
    return place if is_results else find_subject(name, home)


def report_subject(asked: Report) -> Path:
    """Write the page that the arguments ask for, and return its path. Raises InputError."""
    home = Path(asked.runs_dir)
    folder = find_subject(asked.run, home)
    other = find_rival(asked.vs, home) if asked.vs else None
    return write_report(folder, other, Path(asked.out) if asked.out else None, asked.rollouts)


def run(asked: Report) -> int:
    """The verb without its command line. Raises InputError."""
    began = time.perf_counter()
    out = report_subject(asked)
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB, {time.perf_counter() - began:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(Report, run))
