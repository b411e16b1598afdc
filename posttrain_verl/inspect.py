"""Look at the data of a mix: `python -m posttrain_verl.inspect mix=NAME [rows=5] [base_model=NAME]`.

Shows `rows` rows of each source and split, drawn over its range of difficulty, with what the checks flag, in the
terminal and as one HTML page (`<data folder>/inspection.html`, or `posttrain.out=FILE`). `base_model=` (default
nano_2m, which is embedded) gives the template, the tokens and the loss mask. --approve records in manifest.json who
looked, and when; --who says the name.
Exit codes: 0 done, 2 the input is wrong, 130 interrupted.
"""

from __future__ import annotations

import getpass
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import data_prep
from data_prep import manifest as manifests
from data_prep.inspection import cards, page, terminal
from posttrain_verl import base_models, options
from posttrain_verl.console import stdout
from posttrain_verl.prep import choose
from posttrain_verl.problem import InputError, Problem, exit_code

OPTIONS = {"rows": "5", "seed": "0", "base_model": "nano_2m", "posttrain.out": ""}


def template_of(name: str) -> cards.Template:
    """How a model's tokenizer renders messages, piece by piece, with the loss mask of SFT: what the assistant says."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        base_models.ensure(name, report=lambda line: print(line, file=sys.stderr))
    )

    def tokens(messages: cards.Messages, begin: bool) -> list[int]:
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=begin, return_dict=False))

    def render(messages: cards.Messages) -> list[tuple[str, bool, int]]:
        answered = messages[-1]["role"] == "assistant"
        prompt = tokens(messages[:-1] if answered else messages, True)
        pieces = [(tokenizer.decode(prompt), False, len(prompt))]
        if answered:
            trained = tokens(messages, False)[len(prompt) :]
            pieces.append((tokenizer.decode(trained), True, len(trained)))
        return pieces

    return render


def read_arguments(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The options of OPTIONS, and the words that are for the mix. Raises InputError."""
    ours = [word for word in words if word.partition("=")[0] in OPTIONS]
    given, problems = options.read("inspect", ours, OPTIONS)
    if not (given["rows"].isdecimal() and given["seed"].isdecimal() and int(given["rows"])):
        problems.append(Problem("rows and seed are numbers, rows at least 1", "write rows=5"))
    problems += options.output("posttrain.out", given["posttrain.out"])
    if problems:
        raise InputError("the command line cannot be read", problems)
    return given, [word for word in words if word not in ours]


def run(words: list[str], *, approve: bool = False, who: str = "") -> int:
    """The verb without its command line. Raises InputError."""
    given, rest = read_arguments(words)
    if "=" in who:
        raise InputError("the command line cannot be read", [Problem(f"--who {who} is no name", "--who NAME")])
    choice = choose(rest)
    try:
        manifest = data_prep.read_manifest(choice.folder)
    except data_prep.DataError as error:
        remedy = f"build it: python -m posttrain_verl.prep mix={choice.config['name']}"
        raise InputError(
            "there is nothing to look at", [Problem(p.where + " " + p.what, remedy) for p in error.problems]
        ) from None
    drawn = cards.draw(choice.folder, int(given["rows"]), int(given["seed"]), template_of(given["base_model"]))
    target = Path(given["posttrain.out"] or choice.folder / "inspection.html").expanduser()
    _show(choice.folder, target, drawn, manifest, given["base_model"])
    if approve:
        _approve(choice.folder, manifest, who or getpass.getuser(), len(drawn))
    return 0


def _show(folder: Path, target: Path, drawn: list[cards.Card], manifest: dict[str, Any], model: str) -> None:
    dropped = cards.dropped(folder, per_reason=20)
    console = stdout()
    terminal.show(console, drawn, manifest, {reason: rows[:3] for reason, rows in dropped.items()})
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page.page(drawn, manifest, dropped, cards.histograms(folder), model), encoding="utf-8")
    flagged = sum(bool(card.flags) for card in drawn)
    console.print(f"{len(drawn)} rows shown, {flagged} with flags; page: {target}", soft_wrap=True)


def _approve(folder: Path, manifest: dict[str, Any], who: str, rows: int) -> None:
    problems = data_prep.verify(folder)
    if problems:
        raise InputError(
            "the data changed since it was built", [Problem(f"{p.where} {p.what}", p.remedy) for p in problems]
        )
    entry = {"who": who, "when": datetime.now(UTC).isoformat(timespec="seconds"), "rows": rows}
    manifests.write(folder, manifest | {"inspected": [*manifest["inspected"], entry]})
    print(f"approved by {who}: recorded in {folder / manifests.FILE_NAME}")


def main() -> int:
    """The verb."""
    parser = options.parser("inspect", __doc__)
    parser.add_argument("--approve", action="store_true", help="record in the manifest that this data was looked at")
    parser.add_argument("--who", default="", help="the name to record (default: the login name)")
    given = parser.parse_intermixed_args()
    return exit_code(lambda: run(given.words, approve=given.approve, who=given.who))


if __name__ == "__main__":
    sys.exit(main())
