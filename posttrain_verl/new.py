"""The verb `new`: a commented file to begin with, in the current folder. A file that is there is never written over."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verbs import TEMPLATES as FOLDER
from posttrain_verl.verbs import New


@dataclass(frozen=True)
class Template:
    """A file of templates/. `place` is where a copy lies, `next` what to do then; NAME and FILE in them are those of the copy.

    A kind whose files differ by stage has STAGE in its `source`, and a `stage` that is meant where none is named.
    """

    source: str
    place: str
    next: str
    stage: str = ""


TEMPLATES = {
    "reward": Template("reward.py", "NAME.py", "posttrain check recipe=RECIPE reward=FILE"),
    "recipe": Template("recipe_STAGE.yaml", "recipes/NAME.yaml", "posttrain check recipe=NAME", "rl"),
    "mix": Template("mix.yaml", "conf/mix/NAME.yaml", "posttrain prep mix=FILE"),
}


def write_template(kind: str, name: str, out: str = "", stage: str = "") -> Path:
    """Write the template of a kind, and of a stage where it has several, under a name, to `out` or to its place below the
    current folder. Raises InputError where there is such a file."""
    template = TEMPLATES[kind]
    file = Path(out or template.place.replace("NAME", name)).expanduser()
    source = template.source.replace("STAGE", stage or template.stage)
    text = (FOLDER / source).read_text(encoding="utf-8")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(fill_in(text, name, file))
    except FileExistsError:
        problem = Problem(f"{file} is there already", f"give another name: posttrain new {kind} NAME")
        raise InputError(f"no new {kind}", [problem]) from None
    return file


def fill_in(text: str, name: str, file: Path) -> str:
    return text.replace("NAME", name).replace("FILE", str(file))


def run(asked: New) -> int:
    """The verb without its command line. Raises InputError."""
    kind, name = asked.kind, asked.file_name
    file = write_template(kind, name, asked.out, asked.stage)
    print(f"{file}: read its comments, change it, and then: {fill_in(TEMPLATES[kind].next, name, file)}")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(New, run))
