"""Evaluations as a reader asks about them, compared on the questions that they share, and printed in the terminal."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from posttrain_verl.evaluate.grading import by_question
from posttrain_verl.evaluate.result import (
    ACCURACY,
    ERROR_KINDS,
    FEWEST,
    MEAN_REWARD,
    Item,
    Metric,
    Result,
    headline,
    item_value,
    read_result,
)
from posttrain_verl.paths import PIPELINE_FILE
from posttrain_verl.run.folder import RunFolder
from posttrain_verl.significance import ALPHA, Paired, Share, holm, paired
from posttrain_verl.terminal.problem import InputError, Problem

BASE = "base"  # the label of the model before any training


@dataclass(frozen=True)
class Evaluation:
    """An evaluation and its file: the figures by name, and below them all that the file holds, as `result`."""

    path: Path
    result: Result = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The evaluation of a file. Raises InputError where it is not one."""
        return cls(path.absolute(), read_result(path))

    def is_same(self, other: Evaluation) -> bool:
        """Whether both are one evaluation: a later one may have replaced the file of an earlier one, which is another."""
        if self.result is other.result:
            return True
        same_file = self.path.resolve() == other.path.resolve()
        return same_file and json.dumps(self.result) == json.dumps(
            other.result
        )  # as text, since NaN differs from itself

    @property
    def label(self) -> str:
        return self.result["label"]

    @property
    def eval(self) -> str:
        return self.result["eval"]

    @property
    def n(self) -> int:
        """The questions that were used."""
        return self.result["n"]

    @property
    def metrics(self) -> dict[str, Metric]:
        """Each figure with its 95 % interval."""
        return self.result["metrics"]

    @property
    def accuracy(self) -> Metric | None:
        """None where the reward does not say what is right."""
        return self.metrics.get(ACCURACY)

    @property
    def reward(self) -> Metric | None:
        """The mean of a reward of the user's own, where one graded."""
        return self.metrics.get(MEAN_REWARD)

    @property
    def errors(self) -> dict[str, int]:
        """The wrong answers of each kind."""
        return self.result["errors"]

    @property
    def items(self) -> list[Item]:
        """Every answer with its grade."""
        return self.result["items"]

    def __str__(self) -> str:
        """The main figure with its interval, in one line."""
        name, found = headline(self.result)
        few = f"; fewer than {FEWEST}, so small differences are noise" if self.result["noise"] else ""
        return f"{self.label} on {self.eval}: {name} {format_interval(found, name)} of {self.n} questions{few}"


@dataclass(frozen=True)
class Comparison:
    """`second` against `first` on the questions of `eval` that both answered: `numbers` says how they differ, `corrected` is p
    after Holm over all comparisons made, and `gained` and `lost` are the ids of the questions that flipped. `figure` differs:
    accuracy, or the mean reward."""

    eval: str
    first: str
    second: str
    numbers: Paired
    corrected: float
    of: int
    gained: list[str] = field(repr=False)
    lost: list[str] = field(repr=False)
    figure: str = ACCURACY

    def __str__(self) -> str:
        return self.sentence()

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
        if self.verdict != "noise":
            few = f", but {seen.n} questions are fewer than {FEWEST}: its size is known only roughly"
            claim = f"the {self.verdict} is real" + (few if seen.n < FEWEST else "")
        else:
            found = f"a difference of {self.format_size(seen.detectable)} would be found in four of five cases"
            claim = "it cannot be distinguished from noise"
            claim += "" if math.isnan(seen.detectable) else f"; with these questions {found}"
        difference, low, high = map(self.format_difference, (seen.difference, seen.low, seen.high))
        pair = f"{self.second} against {self.first} on {self.eval}"
        size = f"{difference} {self.unit} [{low}, {high}] on {seen.n} questions"
        return f"{pair}: {size}, p = {self.corrected:.2g}{corrected}: {claim}."

    @property
    def unit(self) -> str:
        """What a difference counts."""
        return "points" if self.figure == ACCURACY else "of mean reward"

    def format_difference(self, difference: float) -> str:
        """A difference with its sign: percentage points of accuracy, or the reward as it is."""
        return format_points(difference) if self.figure == ACCURACY else f"{difference:+.3g}"

    def format_size(self, size: float) -> str:
        """A difference without its sign, with its unit."""
        return f"{100 * size:.1f} points" if self.figure == ACCURACY else f"{size:.3g}"


@dataclass(frozen=True)
class Comparisons:
    """Evaluations by name, what can be said of each pair, and what weakens the comparison.

    Each evaluation is paired with the first one of its set and with the one before it. Two evaluations are one pair.
    """

    evaluations: dict[str, Result] = field(repr=False)
    pairs: list[Comparison]
    remarks: list[str]

    def __str__(self) -> str:
        """The remarks, and the closing sentence of each pair."""
        return "\n".join([*self.remarks, *(pair.sentence() for pair in self.pairs)])

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data, what `compare --json` prints; numbers that do not exist are null."""
        pairs = [
            {"eval": each.eval, "first": each.first, "second": each.second, "corrected": each.corrected, "of": each.of,
             **{key: None if value != value else value for key, value in asdict(each.numbers).items()},  # NaN is not itself
             "gained_items": each.gained, "lost_items": each.lost, "verdict": each.verdict, "sentence": each.sentence()}
            for each in self.pairs
        ]  # fmt: skip
        metrics = {name: {"n": result["n"], "noise": result["noise"], "metrics": result["metrics"],
                          "errors": result["errors"]} for name, result in self.evaluations.items()}  # fmt: skip
        return {"evaluations": metrics, "comparisons": pairs, "remarks": self.remarks}


def compare_places(places: Sequence[Evaluation | str], runs_dir: str = "runs") -> Comparisons:
    """Compare evaluations as they are given, and those that lie at places: files of results, folders of them, or runs.

    Raises:
        InputError: a place has none, one is named twice, or two evaluations cannot be compared.
    """
    results = load_results(places, runs_dir)
    return Comparisons(results, compare_results(results), comparison_remarks(results))


def format_points(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.1f}"


def find_results(place: str, runs_dir: str = "runs") -> list[Path]:
    """The files of results that a place holds: a file, a folder of them, or the eval/ of a run.

    Raises:
        InputError: there is none.
    """
    given = Path(place).expanduser()
    if given.is_file():
        return [given]
    if given.suffix == ".json":
        problem = Problem(f"{place} is not a file", "name files of results, folders, or runs")
        raise InputError("nothing to compare", [problem])
    folder = given if given.is_dir() else RunFolder.find(place, runs_dir).path
    is_run = (folder / "config.yaml").is_file()
    files = list((folder / "eval").glob("*.json")) or ([] if is_run else list(folder.glob("*.json")))
    if not files:
        remedy = f"evaluate first: python -m posttrain_verl.evaluate run={place} eval=NAME"
        raise InputError("nothing to compare", [Problem(f"{folder} holds no evaluation (eval/*.json)", remedy)])
    ranks = label_ranks(files[0].parent)
    last = len(ranks)
    return sorted(
        files, key=lambda file: (ranks.get(file.stem.partition("-")[0], last), file.stat().st_mtime, file.name)
    )


def label_ranks(folder: Path) -> dict[str, int]:
    """The places of labels in the order of training: base, then the stages of the pipeline whose evaluations a folder holds.

    Evaluations with other labels follow in the order in which they were made.
    """
    journal = folder.parent / PIPELINE_FILE
    stages = json.loads(journal.read_text()).get("stages", []) if journal.is_file() else []
    return {label: place for place, label in enumerate((BASE, *(stage.get("name") for stage in stages)))}


def load_results(places: Sequence[Evaluation | str], runs_dir: str = "runs") -> dict[str, Result]:
    """The evaluations given and those at the places, by their labels. Where two share a label, the name has the file in it.

    Raises:
        InputError: a place has none, or none that was not named before it.
    """
    found: list[Evaluation] = []
    for place in places:
        files = [] if isinstance(place, Evaluation) else find_results(place, runs_dir)
        given = [place] if isinstance(place, Evaluation) else [Evaluation.read(file) for file in files]
        fresh = [each for each in given if not any(map(each.is_same, found))]
        if not fresh:
            what = f"{place.path if isinstance(place, Evaluation) else place} is named twice"
            remedy = "name two evaluations; label= or out= of `evaluate` gives each a file of its own"
            raise InputError("nothing to compare", [Problem(what, remedy)])
        found += fresh
    times = Counter((each.label, each.eval) for each in found)
    named: dict[str, Result] = {}
    for each in found:
        name = each.label
        if times[each.label, each.eval] > 1:  # the run or folder of the file distinguishes them
            folder = each.path.parent
            home = folder.parent if folder.name == "eval" else folder
            name = f"{home.parent.name}/{home.name}/{each.path.stem}"
        numbers = (f" ({number})" for number in range(2, len(found) + 1))  # of evaluations that had one file
        again = next(more for more in ("", *numbers) if f"{name}{more}@{each.eval}" not in named)
        named[f"{name}{again}@{each.eval}"] = each.result
    return named


def compare_results(results: Mapping[str, Result]) -> list[Comparison]:
    """Each evaluation of a set against the first one given and against the one before it, p-values corrected for all.

    Raises:
        InputError: two evaluations of a set share no question, disagree about its gold answer, or only one has an accuracy.
    """
    pairs: list[tuple[str, str]] = []
    for name in dict.fromkeys(result["eval"] for result in results.values()):
        keys = [key for key, result in results.items() if result["eval"] == name]
        for before, key in pairwise(keys):
            pairs += dict.fromkeys([(keys[0], key), (before, key)])
    measured = [_on_shared(results[one], results[two]) for one, two in pairs]
    corrected = holm([1.0 if math.isnan(each.p) else each.p for each, _, _ in measured])
    found = []
    for (one, two), (each, gained, lost), p in zip(pairs, measured, corrected, strict=True):
        first, second = one.partition("@")[0], two.partition("@")[0]
        figure = headline(results[one])[0]
        found.append(Comparison(results[one]["eval"], first, second, each, p, len(pairs), gained, lost, figure))
    return found


def _on_shared(one: Result, two: Result) -> tuple[Paired, list[str], list[str]]:
    figures = [headline(result)[0] for result in (one, two)]
    values: list[dict[str, float]] = []  # of each question: 0 or 1, a reward, or the mean of its samples
    for result in (one, two):
        groups = by_question(result["items"])
        values.append({name: fmean(item_value(item, figures[0]) for item in group) for name, group in groups.items()}
                      if figures[0] == figures[1] else {})  # fmt: skip
    first, second = values
    shared = [name for name in first if name in second]
    golds = [{item["id"]: item["gold"] for item in result["items"]} for result in (one, two)]
    other = [name for name in shared if golds[0][name] != golds[1][name]]
    fault = "" if shared else "share no question" if figures[0] == figures[1] else f"have {figures[0]} and {figures[1]}"
    if other:
        fault = f"have {len(other)} questions of one id and two golds, e.g. {other[0]}"
    if fault:
        what = f"{one['label']} and {two['label']} on {one['eval']} {fault}"
        raise InputError(
            "nothing to compare", [Problem(what, "evaluate both on the same Parquet, with the same reward=")]
        )
    seen = paired({name: first[name] for name in shared}, {name: second[name] for name in shared})
    gained = [name for name in shared if second[name] > first[name]]
    lost = [name for name in shared if second[name] < first[name]]
    return seen, gained, lost


def comparison_remarks(results: Mapping[str, Result]) -> list[str]:
    """What weakens a comparison: other sampling, or questions that only one side answered."""
    remarks = []
    for name in dict.fromkeys(result["eval"] for result in results.values()):
        group = [result for result in results.values() if result["eval"] == name]
        ways = {str({k: v for k, v in result["sampling"].items() if k != "seed"}) for result in group}
        if len(ways) > 1:
            remarks.append(f"the evaluations on {name} were sampled differently: {'; '.join(sorted(ways))}")
        named = [result.get("reward", "our graders") for result in group]
        graders = {each.rpartition(" ")[2]: each for each in named}  # by the digest, since a copy may have another name
        if len(graders) > 1:
            remarks.append(f"the evaluations on {name} were graded differently: {'; '.join(sorted(graders.values()))}")
        ids = [{item["id"] for item in result["items"]} for result in group]
        if apart := len(set().union(*ids) - ids[0].intersection(*ids)):
            left_out = "were not answered in every evaluation, and are left out of its pairs"
            remarks.append(f"{apart} questions of {name} {left_out}")
    return remarks


SHOWN = 20  # failures of a kind, and flips


def print_evaluation(result: Result, console: Console) -> None:
    """The figures of one evaluation, and a warning if it has few questions."""
    drawn = result["sampling"]
    how = "greedy" if drawn["temperature"] == 0 else f"k={drawn['k']}, temperature {drawn['temperature']:g}"
    by = f", graded by {result['reward']}" if "reward" in result else ""
    title = f"{result['label']} on {result['eval']}, {result['n']} of {result['population']} questions, {how}{by}"
    table = Table("figure", "value [95 %]", "n", title=title)
    for name, metric in result["metrics"].items():
        table.add_row(name, format_interval(metric, name), str(metric["n"]))
    console.print(table)
    wrong = sum(result["errors"].values())
    if wrong:
        counts = ", ".join(f"{count} {kind}" for kind, count in result["errors"].items())
        console.print(f"{wrong} wrong answers: {counts} (docs/evidence/evaluate.md says how far to trust the kinds)")
    if result["noise"]:
        few = f"has n = {result['n']} questions, fewer than {FEWEST}: differences of less than about 10 points mean nothing"
        console.print(f"NOISE: {result['label']} on {result['eval']} {few}", style="bold red")


def print_comparisons(found: Comparisons, console: Console) -> None:
    """The evaluations, how they differ, which questions flipped, and a sentence for each pair."""
    for result in found.evaluations.values():
        print_evaluation(result, console)
    for name in dict.fromkeys(each.eval for each in found.pairs):
        # A column for each pair, so that those of base, SFT and RL fit a terminal of 80 columns.
        pairs = [each for each in found.pairs if each.eval == name]
        unit = "points" if pairs[0].figure == ACCURACY else MEAN_REWARD
        table = Table(unit, *(f"{each.second} against {each.first}" for each in pairs), title=f"pairs on {name}")
        seen = [each.numbers for each in pairs]
        table.add_row("difference", *(each.format_difference(each.numbers.difference) for each in pairs))
        ends = [(each.format_difference(each.numbers.low), each.format_difference(each.numbers.high)) for each in pairs]
        table.add_row("95 %", *(f"{low} to {high}" for low, high in ends))
        table.add_row("gained, lost", *(f"{one.gained}, {one.lost} of {one.n}" for one in seen))
        table.add_row("p", *(f"{one.p:.2g} ({one.test})" for one in seen))
        table.add_row("p, corrected", *(f"{each.corrected:.2g}" for each in pairs))
        table.add_row("detectable", *(each.format_size(each.numbers.detectable) for each in pairs))
        console.print(table)
    for each in found.pairs:
        for change, ids in (("gained", each.gained), ("lost", each.lost)):
            more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
            if ids:
                console.print(escape(f"{each.second} {change} against {each.first}: {', '.join(ids[:SHOWN])}{more}"))
    for remark in found.remarks:
        console.print(escape(remark), style="yellow")
    for each in found.pairs:
        console.print(escape(each.sentence()), style="bold")


def format_interval(metric: Metric, name: str = ACCURACY) -> str:
    """`54.3 % [51.6, 57.0]`, the 95 % interval; of the mean reward `0.54 [0.52, 0.57]`."""
    if name == MEAN_REWARD:
        return f"{metric['value']:.3g} [{metric['low']:.3g}, {metric['high']:.3g}]"
    return str(Share(metric["value"], metric["low"], metric["high"], metric["n"]))


def print_failures(result: Result, console: Console) -> None:
    """Up to 20 random wrong answers of each kind, to read."""
    for kind in ERROR_KINDS:
        found = [item for item in result["items"] if item["error"] == kind]
        if not found:
            continue
        drawn = random.Random(1).sample(found, min(SHOWN, len(found)))
        console.rule(f"{kind}: {len(drawn)} of {len(found)} of {result['label']} on {result['eval']}")
        for item in drawn:
            console.print(f"[bold]{escape(item['id'])}[/] sample {item['sample']}: {escape(item['evidence'])}")
            console.print(escape(item["question"]), style="cyan")
            console.print(escape(item["answer"]))
            console.print(f"gold {escape(item['gold'][:200])}, read {escape(item.get('pred') or '')}\n", style="yellow")
