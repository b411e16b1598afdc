r"""Verdicts of the math reward on real golds: each gold with one symbol changed must be wrong, and respelt must be right.

    python benchmarks/verdicts.py GOLDS.jsonl ... [--show 20]
    python benchmarks/verdicts.py --cut GSM8K.jsonl

A file has one object a line with the field `gold` (or `ground_truth`). By file: changed golds that pass, by kind (digit,
sign, relation, letter), and respelt golds that are refused, by respelling. A change that leaves the meaning is not always
told from one that does not (0 and -0), so what passes is shown, to be read.

With --cut: worked solutions of GSM8K without their `####`, cut at random places. None may be right before the gold has been
worked out ("= gold").
"""

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import reward_fns

DIGIT = re.compile(r"\d")
SIGN = re.compile(r"(?<![\^_{(])[-+](?=[\s\\\w(])")
# Pairs of relations and brackets; the first that occurs is changed.
RELATIONS = (
    (r"\leq", r"\geq"), (r"\geq", r"\leq"), (r"\le ", r"\ge "), (r"\ge ", r"\le "), (r"\le", "<"), (r"\geq", ">"),
    ("<", r"\le "), (">", r"\ge "), (r"\cup", r"\cap"), ("[", "("), ("]", ")"), ("(", "["), (r"\neq", "="),
)  # fmt: skip
LETTER = re.compile(
    r"(?<!\\)(?<![A-Za-z])[A-Za-z](?![A-Za-z])|(?<=\\mathrm\{)[A-Za-z](?=\})|(?<=\\text\{)[A-Za-z](?=\})"
)
ENVIRONMENT = re.compile(r"\\(?:begin|end)\{\w+\}(?:\{\w+\})?")
SMALL, CAPITAL = "abcdkmnpqrtuvwxyz", "ABCDFGHKMNPQRSTUVXYZ"
COMMAND = re.compile(r"\\[A-Za-z]+")
UNNAMED = re.compile(r"[=,<>y]|[A-Za-z]{3}|\\(?:in|le|ge|lt|gt|ne|cup|pm|text|triangle|equiv)(?![A-Za-z])")
CALCULATION = re.compile(r"<<.*?>>")  # GSM8K's marks
WIDE = {ord(character): ord(character) + 0xFEE0 for character in "0123456789.-"}


def changed(gold: str, chance: random.Random) -> Iterator[tuple[str, str]]:
    """(kind, gold with one symbol changed)."""

    def with_other(spot: re.Match[str], other: str) -> str:
        return gold[: spot.start()] + other + gold[spot.end() :]

    if spots := list(DIGIT.finditer(gold)):
        for spot in {chance.choice(spots), spots[-1]}:
            yield "digit", with_other(spot, chance.choice([d for d in "123456789" if d != spot.group()]))
    if signs := list(SIGN.finditer(gold)):
        spot = chance.choice(signs)
        yield "sign", with_other(spot, "+" if spot.group() == "-" else "-")
    elif re.match(r"\$?[\d\\]", gold) and not re.match(r"\$?\\(?:text|mathrm|\{|left|pm)", gold):
        yield "sign", re.sub(r"^(\$?)", r"\1-", gold, count=1)
    for old, new in RELATIONS:
        if old in gold:
            yield "relation", gold.replace(old, new, 1)
            break
    if letters := list(LETTER.finditer(ENVIRONMENT.sub(lambda match: "\\" + "_" * (len(match.group()) - 1), gold))):
        spot = chance.choice(letters)
        others = SMALL if spot.group().islower() else CAPITAL
        yield "letter", with_other(spot, chance.choice([c for c in others if c != spot.group()]))


def styles(gold: str) -> Iterator[tuple[str, str]]:
    """(name, response) of a gold respelt as people and models write it."""
    inner = gold.strip().strip("$") if gold.count("$") in (0, 2) else gold
    formula = not re.search(r"[A-Za-z]{4,} |^[A-Za-z]{4,}$", inner)
    words = bool(re.fullmatch(r"[A-Za-z][A-Za-z' -]+", inner))
    number = bool(re.fullmatch(r"-?\d+(?:\.\d+)?", inner))
    yield "box", rf"\boxed{{{gold}}}"
    yield "bold line", f"The answer is **{gold}**."
    if "$" in inner:
        return
    yield "dollars", rf"Hence $\boxed{{{inner}}}$."
    yield "display", f"Therefore, the answer is:\n\n\\[\n{inner}\n\\]" if formula else f"The answer is: {inner}"
    yield "phrase", f"The answer is ${inner}$." if formula else f"The answer is {inner}."
    yield "text", rf"\boxed{{\text{{{inner}}}}}" if words or number else rf"\boxed{{{inner}.}}"
    yield "spaces", r"\boxed{ " + re.sub(r"(?<=[^\s\\{])([=+])(?=[^\s\d])", r" \1 ", inner) + " }"
    if inner.count("(") == 1 == inner.count(")") and not re.search(r"\\(?:left|text)", inner):
        sized = re.sub(r"(?<!\\left)(?<!\\)\(([^()\[\]]*)(?<!\\)\)(?!\\)", r"\\left(\1\\right)", inner)
        yield "left right", rf"\boxed{{{sized}}}"
    yield "display fraction", r"\boxed{" + inner.replace(r"\frac", r"\dfrac") + "}"
    bold = formula and r"\text" not in inner
    yield "bold", rf"\boxed{{\mathbf{{{inner}}}}}" if bold else rf"**\boxed{{{inner}}}**"
    yield "colour", rf"\boxed{{\color{{red}}{{{inner}}}}}"
    if formula:
        yield "thin space", r"\boxed{" + re.sub(r"(?<=\S) (?=\S)", r" \\, ", inner) + "}"
    yield "Chinese", f"所以答案是 ${inner}$。" if formula else f"答案是 {inner}。"
    yield from special_styles(inner, number)


def special_styles(inner: str, number: bool) -> Iterator[tuple[str, str]]:
    """Respellings of one kind of gold: letters of choices, numbers, values with units, scientific notation."""
    if re.fullmatch(r"[A-E]", inner):
        yield "with text", rf"\boxed{{{inner}: the fourth quadrant}}"
        yield "because", f"The answer is {inner} because the slope is positive."
    elif number:
        yield "unit", rf"\boxed{{{inner} \text{{ units}}}}"
        yield "full width", f"答案是{inner.translate(WIDE)}。"
    elif not UNNAMED.search(COMMAND.sub("", inner)) and not UNNAMED.search(inner.replace("\\text", "\\in")):
        yield "named", rf"\boxed{{y = {inner}}}"
    if unit := re.fullmatch(r"(-?[\d.,]+)\s*\(([a-z ]+)\)", inner):
        yield "no unit", rf"\boxed{{{unit.group(1)}}}"
        yield "with unit", f"The answer is {unit.group(1)} {unit.group(2)}."
    if power := re.fullmatch(r"(-?\d+(?:\.\d+)?)e([+-]?\d+)", inner):
        times_ten = rf"{power.group(1)} \times 10^{{{int(power.group(2))}}}"
        yield "scientific", rf"\boxed{{{times_ten}}}"
        yield "scientific, unit", rf"\boxed{{{times_ten} \mathrm{{~m}}}}"


def right(response: str, gold: str, source: str = "math") -> bool:
    return bool(reward_fns.grade(source, response, gold)["acc"])


def golds_of(path: Path) -> list[str]:
    rows = map(json.loads, path.read_text().splitlines())
    return [str(row.get("gold", row.get("ground_truth"))) for row in rows]


def judge_file(path: Path, show: int) -> Counter[str]:
    """Print what passes and what is refused in one file; the counts."""
    chance = random.Random(0)
    counts: Counter[str] = Counter()
    wrong: dict[str, list[tuple[str, str, str]]] = {"passes": [], "is refused": []}
    for gold in golds_of(path):
        for kind, other in changed(gold, chance):
            counts["changed"] += 1
            if other != gold and right(rf"\boxed{{{other}}}", gold):
                wrong["passes"].append((kind, gold, other))
        for kind, response in styles(gold):
            counts["respelt"] += 1
            if not right(response, gold):
                wrong["is refused"].append((kind, gold, response))
    counts.update(passed=len(wrong["passes"]), refused=len(wrong["is refused"]))
    print(f"{path.stem}: {described(counts)}")
    for title, found in wrong.items():
        print(f"    {title}: {dict(Counter(kind for kind, *_ in found))}")
        for kind, gold, other in found[:show]:
            print(f"        {kind}: {gold!r} <- {other!r}")
    return counts


def described(counts: Counter[str]) -> str:
    changed_ones = f"{counts['passed']} of {counts['changed']} changed golds pass"
    return f"{changed_ones}, {counts['refused']} of {counts['respelt']} respelt golds are refused"


def judge_cut_solutions(path: Path, show: int, times: int = 4000) -> None:
    """Print how many solutions are right although they were cut off before the gold was worked out."""
    chance = random.Random(1)
    solutions = [
        CALCULATION.sub("", row["answer"]).split("####") for row in map(json.loads, path.read_text().splitlines())
    ]
    wrong = []
    for working, gold in chance.choices(solutions, k=times):
        text = working[: chance.randrange(1, len(working) - 1)]
        worked_out = re.search(rf"=\s*\$?\s*{re.escape(gold.strip())}", text)
        if not worked_out and right(text, gold.strip(), "openai/gsm8k"):
            wrong.append((text[-60:], gold.strip()))
    whole = sum(right(working, gold.strip(), "openai/gsm8k") for working, gold in solutions)
    print(
        f"{len(wrong)} of {times} cut solutions are right without the answer; {whole} of {len(solutions)} whole ones are right"
    )
    for text, gold in wrong[:show]:
        print(f"    {gold}: {text!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--cut", type=Path, metavar="FILE", help="worked solutions of GSM8K")
    parser.add_argument("--show", type=int, default=20, metavar="N", help="examples of each kind and file")
    options = parser.parse_args()
    if options.cut:
        judge_cut_solutions(options.cut, options.show)
    total: Counter[str] = Counter()
    for path in options.files:
        total += judge_file(path, options.show)
    if options.files:
        print(f"all: {described(total)}")


if __name__ == "__main__":
    main()
