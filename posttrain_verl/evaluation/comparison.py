"""Evaluations against one another, on the questions that they share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain_verl.evaluation.grading import by_question
from posttrain_verl.evaluation.result import FEWEST, Result, read
from posttrain_verl.problem import InputError, Problem
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.statistics import ALPHA, Paired, holm, paired

FIRST = ("base", "sft")  # labels in the order of training; others follow by name


@dataclass(frozen=True)
class Comparison:
    """`second` against `first` on the questions of `eval` that both answered: `numbers` says how they differ, `corrected` is p
    after Holm over all comparisons made, and `gained` and `lost` are the ids of the questions that flipped."""

    eval: str
    first: str
    second: str
    numbers: Paired
    corrected: float
    of: int
    gained: list[str]
    lost: list[str]

    @property
    def verdict(self) -> str:
        """`gain`, `loss`, or `noise` where the difference may be chance."""
        if not self.corrected < ALPHA:  # also where there is no p
            return "noise"
        return "gain" if self.numbers.difference > 0 else "loss"

    def sentence(self) -> str:
        """Whether the difference is real, in one sentence."""
        seen = self.numbers
        corrected = f" (corrected for {self.of} comparisons)" if self.of > 1 else ""
        return (
            f"{self.second} against {self.first} on {self.eval}: {points(seen.difference)} points "
            f"[{points(seen.low)}, {points(seen.high)}] on {seen.n} questions, p = {self.corrected:.2g}{corrected}: "
            f"{self._judgement()}."
        )

    def _judgement(self) -> str:
        seen = self.numbers
        if self.verdict == "noise":
            found = f"a difference of {100 * seen.detectable:.1f} points would be found in four of five cases"
            said = "not to be told from noise"
            return said if math.isnan(seen.detectable) else f"{said}; with these questions {found}"
        few = f", but {seen.n} questions are fewer than {FEWEST}: its size is known only roughly"
        return f"the {self.verdict} is real" + (few if seen.n < FEWEST else "")


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.1f}"


def find(word: str, runs_dir: str = "runs") -> list[Path]:
    """The files of results that a word means: a file, a folder of them, or the eval/ of a run.

    Raises:
        InputError: there is none.
    """
    given = Path(word).expanduser()
    if given.is_file():
        return [given]
    if given.suffix == ".json":
        raise InputError(
            "nothing to compare", [Problem(f"{word} is no file", "name files of results, folders, or runs")]
        )
    folder = given if given.is_dir() else RunFolder.find(word, runs_dir).path
    is_run = (folder / "config.yaml").is_file()
    files = list((folder / "eval").glob("*.json")) or ([] if is_run else list(folder.glob("*.json")))
    if not files:
        remedy = f"evaluate first: python -m posttrain_verl.evaluate run={word} eval=NAME"
        raise InputError("nothing to compare", [Problem(f"{folder} holds no evaluation (eval/*.json)", remedy)])
    return sorted(files, key=lambda file: (*_rank(file.stem.partition("-")[0]), file.name))


def _rank(label: str) -> tuple[int, str]:
    return (FIRST.index(label) if label in FIRST else len(FIRST), label)


def load(words: Sequence[str], runs_dir: str = "runs") -> dict[str, Result]:
    """The evaluations that the words mean, by a name that tells them apart: the label, with the file where two share it."""
    files = list(dict.fromkeys(file.absolute() for word in words for file in find(word, runs_dir)))
    results = [(file, read(file)) for file in files]
    times = Counter((result["label"], result["eval"]) for _, result in results)
    names = [
        result["label"] if times[result["label"], result["eval"]] == 1 else _long(file) for file, result in results
    ]
    return {f"{name}@{result['eval']}": result for name, (_, result) in zip(names, results, strict=True)}


def _long(file: Path) -> str:
    """The run or folder that a file of results lies in, with its label."""
    home = file.parent.parent if file.parent.name == "eval" else file.parent
    return f"{home.parent.name}/{home.name}/{file.stem}"


def compare(results: Mapping[str, Result]) -> list[Comparison]:
    """Each evaluation of a set against the first one given and against the one before it, p-values corrected for all.

    Raises:
        InputError: two evaluations of a set share no question, or disagree about its gold answer.
    """
    pairs = _pairs(results)
    measured = [_on_shared(results[one], results[two]) for one, two in pairs]
    corrected = holm([1.0 if math.isnan(each.p) else each.p for each, _, _ in measured])
    return [
        Comparison(
            results[one]["eval"], one.partition("@")[0], two.partition("@")[0], each, p, len(pairs), gained, lost
        )
        for (one, two), (each, gained, lost), p in zip(pairs, measured, corrected, strict=True)
    ]


def _pairs(results: Mapping[str, Result]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name in dict.fromkeys(result["eval"] for result in results.values()):
        keys = [key for key, result in results.items() if result["eval"] == name]
        for place, key in enumerate(keys[1:], start=1):
            pairs += dict.fromkeys([(keys[0], key), (keys[place - 1], key)])
    return pairs


def values(result: Result) -> dict[str, float]:
    """The accuracy on each question: 0 or 1, or the mean of its samples."""
    groups = by_question(result["items"])
    return {name: sum(item["acc"] for item in group) / len(group) for name, group in groups.items()}


def _on_shared(one: Result, two: Result) -> tuple[Paired, list[str], list[str]]:
    first, second = values(one), values(two)
    shared = [name for name in first if name in second]
    golds = [{item["id"]: item["gold"] for item in result["items"]} for result in (one, two)]
    other = [name for name in shared if golds[0][name] != golds[1][name]]
    if not shared or other:
        what = f"{one['label']} and {two['label']} on {one['eval']} "
        what += (
            f"have {len(other)} questions of one id and two golds, e.g. {other[0]}" if other else "share no question"
        )
        raise InputError("nothing to compare", [Problem(what, "evaluate both on the same Parquet")])
    seen = paired({name: first[name] for name in shared}, {name: second[name] for name in shared})
    gained = [name for name in shared if second[name] > first[name]]
    lost = [name for name in shared if second[name] < first[name]]
    return seen, gained, lost


def remarks(results: Mapping[str, Result]) -> list[str]:
    """What makes a comparison less than it seems: other sampling, questions that only one side answered, few questions."""
    said = []
    for name in dict.fromkeys(result["eval"] for result in results.values()):
        group = [result for result in results.values() if result["eval"] == name]
        ways = {str({k: v for k, v in result["sampling"].items() if k != "seed"}) for result in group}
        if len(ways) > 1:
            said.append(f"the evaluations on {name} were sampled differently: {'; '.join(sorted(ways))}")
        ids = [{item["id"] for item in result["items"]} for result in group]
        if apart := len(set().union(*ids) - ids[0].intersection(*ids)):
            said.append(
                f"{apart} questions of {name} were not answered in every evaluation, and are left out of its pairs"
            )
    return said
