"""The verb `inspect`: rows of a mix, drawn over their range of difficulty, with what the checks flag.

They are shown in the terminal and as one HTML page. `--approve` records in manifest.json who looked, and when; on a terminal
it asks first.
"""

from __future__ import annotations

import getpass
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import data_prep
from data_prep import inspection
from data_prep import manifest as manifests
from data_prep.builder import FAILED
from posttrain_verl import own_reward
from posttrain_verl.base_models import naming
from posttrain_verl.mixes import choose_mix, find_folder
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import stdout
from posttrain_verl.terminal.problem import InputError, Problem, WorkFailed
from posttrain_verl.verbs import Inspect


def chat_template(name: str) -> inspection.Template:
    """How a model's tokenizer renders messages, piece by piece, with the loss mask of SFT: what the assistant says."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(naming.find_model(name))

    def tokens(messages: inspection.Messages, begin: bool) -> list[int]:
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=begin, return_dict=False))

    def render(messages: inspection.Messages) -> list[tuple[str, bool, int]]:
        answered = messages[-1]["role"] == "assistant"
        prompt = tokens(messages[:-1] if answered else messages, True)
        pieces = [(tokenizer.decode(prompt), False, len(prompt))]
        if answered:
            trained = tokens(messages, False)[len(prompt) :]
            pieces.append((tokenizer.decode(trained), True, len(trained)))
        return pieces

    return render


def run(asked: Inspect) -> int:
    """The verb without its command line. Raises InputError, and WorkFailed where the user does not approve."""
    reward, console = own_reward.read_reward(asked.reward, asked.arguments), stdout()
    folder = find_folder(asked.mix, asked.data_dir)
    if folder is None:
        keys = own_reward.other_arguments(asked.arguments)
        folder = choose_mix(asked.mix, asked.data_dir, keys, any_source=True).folder
    try:
        manifest = data_prep.read_manifest(folder)
    except data_prep.DataError as error:
        failed = folder / FAILED
        inspection.print_dropped(console, inspection.read_dropped(failed, per_reason=3))
        given = shlex.join([f"mix={asked.mix}", f"posttrain.data_dir={asked.data_dir}", *asked.arguments])
        remedy = f"build it: python -m posttrain_verl.prep {given}"
        found = [Problem(f"{problem.where} {problem.what}", remedy) for problem in error.problems]
        but = f" but what a failed build dropped: {failed}" if failed.is_dir() else ""
        raise InputError(f"there is nothing to look at{but}", found) from None
    drawn = inspection.draw_cards(folder, asked.rows, asked.seed, chat_template(asked.base_model), reward)
    target = Path(asked.out or folder / "inspection.html").expanduser()
    dropped = inspection.read_dropped(folder, per_reason=20)
    inspection.print_cards(console, drawn, manifest, {reason: rows[:3] for reason, rows in dropped.items()})
    lengths = inspection.length_histograms(folder)

    def write_page() -> None:
        page = inspection.render_page(drawn, manifest, dropped, lengths, asked.base_model)
        target.write_text(page, encoding="utf-8")

    target.parent.mkdir(parents=True, exist_ok=True)
    write_page()
    flagged = sum(bool(card.flags) for card in drawn)
    seen = f"{len(drawn)} rows shown, {flagged} with flags"
    console.print(f"{seen}; template and tokens are those of base_model={asked.base_model}", soft_wrap=True)
    console.print(f"page: {target}", soft_wrap=True)
    if asked.approve:
        if problems := [Problem(f"{each.where} {each.what}", each.remedy) for each in data_prep.verify(folder)]:
            raise InputError("the data changed since it was built", problems)
        who, when = _ask_approval(seen, asked.who), datetime.now(UTC).isoformat(timespec="seconds")
        manifest["inspected"] = [*manifest["inspected"], {"who": who, "when": when, "rows": len(drawn)}]
        manifests.write_manifest(folder, manifest)
        write_page()
        print(f"approved by {who} at {when}: recorded in {folder / manifests.FILE_NAME}")
    return 0


def _ask_approval(seen: str, who: str) -> str:
    """Who approves the data. A terminal is asked, and for a name unless one is given. A script has decided already: it
    approves by `--approve` alone, under the login name unless one is given. Raises InputError without any name, and WorkFailed
    where the answer is not yes."""
    login = _login_name()
    if sys.stdin.isatty():
        try:
            if _ask(f"{seen}. Approve this data? [y/N] ").lower() not in ("y", "yes"):
                raise WorkFailed("not approved: nothing is recorded")
            who = who or _ask(f"Your name{f' [{login}]' if login else ''}: ")
        except EOFError:
            raise WorkFailed("not approved: nothing is recorded") from None
    if not (who or login):
        raise InputError("the data is not approved", [Problem("there is no name to record", "--who NAME")])
    return who or login


def _ask(question: str) -> str:
    print(question, end="", file=sys.stderr, flush=True)  # the standard output may be a pipe
    return input().strip()


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return ""


if __name__ == "__main__":
    sys.exit(command_line.main(Inspect, run))
