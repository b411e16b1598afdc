"""The verb `inspect`: rows of a mix, drawn over their range of difficulty, with what the checks flag.

They are shown in the terminal and as one HTML page. `--approve` records in manifest.json who looked, and when.
"""

from __future__ import annotations

import getpass
import sys
from datetime import UTC, datetime
from pathlib import Path

import data_prep
from data_prep import inspection
from data_prep import manifest as manifests
from posttrain_verl import base_models, own_reward
from posttrain_verl.mixes import choose_mix
from posttrain_verl.terminal import command_line
from posttrain_verl.terminal.console import stdout
from posttrain_verl.terminal.problem import InputError, Problem
from posttrain_verl.verbs import Inspect


def chat_template(name: str) -> inspection.Template:
    """How a model's tokenizer renders messages, piece by piece, with the loss mask of SFT: what the assistant says."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_models.ensure_model(name))

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
    """The verb without its command line. Raises InputError."""
    reward = own_reward.read_reward(asked.reward, asked.arguments)
    choice = choose_mix(asked.mix, asked.data_dir, own_reward.other_arguments(asked.arguments), any_source=True)
    try:
        manifest = data_prep.read_manifest(choice.folder)
    except data_prep.DataError as error:
        remedy = f"build it: python -m posttrain_verl.prep mix={choice.config['name']}"
        found = [Problem(f"{problem.where} {problem.what}", remedy) for problem in error.problems]
        raise InputError("there is nothing to look at", found) from None
    drawn = inspection.draw_cards(choice.folder, asked.rows, asked.seed, chat_template(asked.base_model), reward)
    target = Path(asked.out or choice.folder / "inspection.html").expanduser()
    dropped = inspection.read_dropped(choice.folder, per_reason=20)
    console = stdout()
    inspection.print_cards(console, drawn, manifest, {reason: rows[:3] for reason, rows in dropped.items()})
    lengths = inspection.length_histograms(choice.folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(inspection.render_page(drawn, manifest, dropped, lengths, asked.base_model), encoding="utf-8")
    flagged = sum(bool(card.flags) for card in drawn)
    console.print(f"{len(drawn)} rows shown, {flagged} with flags; page: {target}", soft_wrap=True)
    if asked.approve:
        if problems := [Problem(f"{each.where} {each.what}", each.remedy) for each in data_prep.verify(choice.folder)]:
            raise InputError("the data changed since it was built", problems)
        who, when = asked.who or getpass.getuser(), datetime.now(UTC).isoformat(timespec="seconds")
        seen = [*manifest["inspected"], {"who": who, "when": when, "rows": len(drawn)}]
        manifests.write_manifest(choice.folder, manifest | {"inspected": seen})
        print(f"approved by {who}: recorded in {choice.folder / manifests.FILE_NAME}")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.main(Inspect, run))
