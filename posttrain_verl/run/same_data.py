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

    A mix that was built again may have other bytes, e.g. by another version of pyarrow: it is only named in the log.
    """
    named = [each.files("train_files") for each in (before, now)]
    known = folder.read_plan().get(DIGESTS) or (digest_data(before) if named[0] != named[1] else None)
    found = digest_data(now) if known else None
    if not known or not found or known == found:
        return
    if named[0] == named[1] and _are_of_mix(named[0], folder):
        log.info(f"{', '.join(named[0])}: not the files that the run was launched with, and it goes on with these")
        return
    remedy = "put those back, or launch a new run" if named[0] == named[1] else "leave it out, or launch a new run"
    yield Problem(f"{now.override('train_files')}: the run was launched with other rows", remedy)


def _are_of_mix(files: list[str], folder: RunFolder) -> bool:
    """Whether they are those of the mix of the run, of which the checks know whether its manifest describes them."""
    plan = folder.read_plan()
    home = Path(str(plan.get("posttrain", {}).get("data_dir", ""))) / str(plan.get("mix", ""))
    return all(Path(file).parent == home for file in files)
