"""Whether a resumed run trains on the data that it was launched with: the position in the data is that of its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.manifest import file_sha256
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.terminal.console import log
from posttrain_verl.terminal.problem import Problem
from posttrain_verl.verl.stage import Settings

DIGESTS = "train_sha256"  # of plan.json


def digest_data(settings: Settings) -> list[str] | None:
    """The sha256 of each file that is trained on, in their order; None where one is not on this machine."""
    files = [Path(file).expanduser() for file in settings.files("train_files")]
    return [file_sha256(file) for file in files] if all(file.is_file() for file in files) else None


def find_other_data(folder: RunFolder, before: Settings, now: Settings) -> Iterator[Problem]:
    """Files that the next attempt would train on in place of others. The same rows in another place are the same data.

    Files that were written anew in the same place are only named in the log: the others are gone, and the run may go on.
    """
    named = [each.files("train_files") for each in (before, now)]
    known = folder.read_plan().get(DIGESTS) or (digest_data(before) if named[0] != named[1] else None)
    found = digest_data(now) if known else None
    if not known or not found or known == found:
        return
    if named[0] == named[1]:
        log.info(
            f"{', '.join(named[0])}: the rows are not those that the run was launched with, and it goes on with them"
        )
        return
    remedy = "leave it out, or launch a new run"
    yield Problem(f"{now.override('train_files')}: the run was launched with other rows", remedy)
