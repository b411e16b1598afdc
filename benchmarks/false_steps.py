"""What the filter `false_step` finds in completions, and how many steps it finds once a digit of them is changed.

    python benchmarks/false_steps.py COMPLETIONS.jsonl [--field answer] [--changed 3000]
    python benchmarks/false_steps.py --champ

A line of the file is one completion in `--field`. `--champ` reads those of the CHAMP data set (`pip install champ-dataset`, MIT):
GPT-3.5, GPT-4, GPT-4 Turbo and PaLM 2 on 270 competition problems. A completion counts as right if the gold is one number and
the model's own summary ends in it. Prints one JSON object; `flagged` holds every different step to be read by a person: a
completion with a right answer may have a false step all the same. `changed` takes lines with a calculation in which nothing was
found, and puts another digit in one place behind the first sign of equality.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from data_prep.filters.arithmetic import find_false_step

NUMBER = re.compile(r"-?\d[\d,]*(?:/\d+)?")
CALCULATION = re.compile(r"\d\s*[-+*/]|frac|times|cdot")
MARKS = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator marks repeat the step
LONGEST = 300  # characters of a line that is changed


def read_rows(path: Path, field: str) -> Iterator[str]:
    for line in path.read_text("utf-8").splitlines():
        yield json.loads(line)[field]


def read_champ() -> Iterator[str]:
    spec = find_spec("champ_dataset")
    if not spec or not spec.submodule_search_locations:
        raise SystemExit("the package champ-dataset is not installed")
    data = Path(spec.submodule_search_locations[0]) / "dataset_files" / "v0.json"
    for problem in json.loads(data.read_text("utf-8"))["problems"].values():
        gold = problem["_answer"].rpartition("equivalently")[2].strip(" .")
        if not re.fullmatch(r"-?\d+(?:/\d+)?", gold):
            continue
        for conversation in problem["conversations"].values():
            said = [
                turn["text"] for turn in conversation["messages"] if turn["role"].startswith("Model") and turn["text"]
            ]
            numbers = NUMBER.findall(said[-1]) if said else []
            if numbers and numbers[-1].replace(",", "") == gold:
                yield "\n\n".join(said[-2:])


def change_digits(texts: list[str], count: int) -> Iterator[str]:
    rng = random.Random(7)
    lines = [line for text in texts for line in MARKS.sub("", text).split("\n") if len(line) < LONGEST]
    lines = [line for line in lines if "=" in line and CALCULATION.search(line) and "####" not in line]
    rng.shuffle(lines)
    for line in lines[:count]:
        places = [at for at, sign in enumerate(line) if sign.isdecimal() and at > line.index("=")]
        if places and not find_false_step(line):
            at = rng.choice(places)
            yield line[:at] + rng.choice([digit for digit in "123456789" if digit != line[at]]) + line[at + 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("completions", type=Path, nargs="?")
    parser.add_argument("--field", default="answer")
    parser.add_argument("--champ", action="store_true")
    parser.add_argument("--changed", type=int, default=3000)
    options = parser.parse_args()
    if options.champ == bool(options.completions):
        parser.error("name a file, or --champ")
    texts = list(read_champ() if options.champ else read_rows(options.completions, options.field))
    flagged = [step for text in texts if (step := find_false_step(text))]
    changed = list(change_digits(texts, options.changed))
    found = sum(find_false_step(line) is not None for line in changed)
    print(json.dumps({
        "completions": len(texts), "with_a_flag": len(flagged), "changed": len(changed), "found": found,
        "flagged": sorted(set(flagged)),
    }, indent=1, ensure_ascii=False))  # fmt: skip


if __name__ == "__main__":
    main()
