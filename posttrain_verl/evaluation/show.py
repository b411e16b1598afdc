"""Evaluations and comparisons for people, in the terminal."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from posttrain_verl.evaluation.comparison import Comparison, points
from posttrain_verl.evaluation.result import ERROR_KINDS, FEWEST, Item, Metric, Result
from posttrain_verl.statistics import Share

SHOWN = 20  # failures of a kind, and flips
SAMPLE_SEED = 1


def evaluation(result: Result, console: Console) -> None:
    """The figures of one evaluation, and what is to be said about its size."""
    drawn = result["sampling"]
    how = "greedy" if drawn["temperature"] == 0 else f"k={drawn['k']}, temperature {drawn['temperature']:g}"
    title = f"{result['label']} on {result['eval']}, {result['n']} of {result['population']} questions, {how}"
    table = Table("figure", "value [95 %]", "n", title=title)
    for name, metric in result["metrics"].items():
        table.add_row(name, percent(metric), str(metric["n"]))
    console.print(table)
    wrong = sum(result["errors"].values())
    if wrong:
        counts = ", ".join(f"{count} {kind}" for kind, count in result["errors"].items())
        console.print(f"{wrong} wrong answers: {counts} (docs/evaluate.md says how far to trust the kinds)")
    if result["noise"]:
        console.print(noise(result), style="bold red")


def comparisons(
    results: Mapping[str, Result], compared: Sequence[Comparison], remarks: Sequence[str], console: Console
) -> None:
    """The evaluations, how they differ, which questions flipped, and a sentence for each pair."""
    for result in results.values():
        evaluation(result, console)
    for name in dict.fromkeys(each.eval for each in compared):
        console.print(_pairs(name, [each for each in compared if each.eval == name]))
    for each in compared:
        for word, ids in (("gained", each.gained), ("lost", each.lost)):
            more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
            if ids:
                console.print(escape(f"{each.second} {word} against {each.first}: {', '.join(ids[:SHOWN])}{more}"))
    for remark in remarks:
        console.print(escape(remark), style="yellow")
    for each in compared:
        console.print(escape(each.sentence()), style="bold")


def _pairs(name: str, compared: Sequence[Comparison]) -> Table:
    """The pairs of one set, a column each, so that those of base, SFT and RL fit a terminal of 80 columns."""
    table = Table("points", *(f"{each.second} against {each.first}" for each in compared), title=f"pairs on {name}")
    seen = [each.numbers for each in compared]
    table.add_row("difference", *(points(one.difference) for one in seen))
    table.add_row("95 %", *(f"{points(one.low)} to {points(one.high)}" for one in seen))
    table.add_row("gained, lost", *(f"{one.gained}, {one.lost} of {one.n}" for one in seen))
    table.add_row("p", *(f"{one.p:.2g} ({one.test})" for one in seen))
    table.add_row("p, corrected", *(f"{each.corrected:.2g}" for each in compared))
    table.add_row("detectable", *(f"{100 * one.detectable:.1f}" for one in seen))
    return table


def noise(result: Result) -> str:
    return (f"NOISE: {result['label']} on {result['eval']} has n = {result['n']} questions, fewer than {FEWEST}: "
            "differences of less than about 10 points mean nothing")  # fmt: skip


def percent(metric: Metric) -> str:
    return str(Share(**metric))


def failures(result: Result, console: Console) -> None:
    """Up to 20 random wrong answers of each kind, to read."""
    for kind in ERROR_KINDS:
        found = [item for item in result["items"] if item["error"] == kind]
        if not found:
            continue
        drawn = random.Random(SAMPLE_SEED).sample(found, min(SHOWN, len(found)))
        console.rule(f"{kind}: {len(drawn)} of {len(found)} of {result['label']} on {result['eval']}")
        for item in drawn:
            _failure(item, console)


def _failure(item: Item, console: Console) -> None:
    console.print(f"[bold]{escape(item['id'])}[/] sample {item['sample']}: {escape(item['evidence'])}")
    console.print(escape(item["question"]), style="cyan")
    console.print(escape(item["answer"]))
    console.print(f"gold {escape(item['gold'][:200])}, read {escape(item['pred'])}\n", style="yellow")
