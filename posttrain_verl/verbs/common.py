"""What verbs have in common: types of their fields, and what those take that look for runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from posttrain_verl import paths
from posttrain_verl.terminal.command_line import Names, Verb, key

AtLeast1 = Annotated[int, Ge(1)]
AtLeast0 = Annotated[int, Ge(0)]


def _reward_flaw(value: str) -> tuple[str, str] | None:
    """What is wrong with a value of `reward=`, and the remedy."""
    from reward_fns import own  # most verbs take none

    remedy = "give FILE.py:NAME, or pkg://MODULE:NAME; posttrain new reward writes such a file"
    try:
        file = own.parse_word(value).file
    except ValueError:
        return " does not name a reward function", remedy
    return None if file is None or file.is_file() else (f": {file} is not a file", remedy)


Reward = Annotated[str, _reward_flaw]


def reward_key() -> Any:
    """The field of a verb that grades: a reward of the user's own, in place of our graders."""
    return key("", "your own reward: FILE.py:NAME, or pkg://MODULE:NAME", shown="our graders")


def group(name: str) -> Names:
    """How to list the options of a group of conf/, or the recipes."""
    return lambda given: paths.names(name)


def run_names(given: Mapping[str, str]) -> list[str]:
    """`<recipe>/<id>` for every run in the folder of the runs."""
    home = Path(given.get("posttrain.runs_dir", "runs")).expanduser()
    return sorted(str(folder.relative_to(home)) for folder in paths.run_folders(home))


class OfRuns(Verb):
    """What a verb takes that looks for runs."""

    runs_dir: str = key("runs", "the folder of the runs", "posttrain.runs_dir")


class OneRun(OfRuns):
    """What a verb takes that looks at one run."""

    MAIN = "run"

    run: str = key("", "a run's folder, RECIPE/ID, ID, or RECIPE for its newest run", names=run_names,
                   remedy="add run=NAME; python -m posttrain_verl.list shows them")  # fmt: skip
