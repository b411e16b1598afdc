"""The end of a sweep: its members in one table, the best first, and which differences are noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import scipy
from rich.console import Console
from rich.table import Table

from posttrain_verl import significance
from posttrain_verl.run.folder import DONE
from posttrain_verl.significance import Mean, Share
from posttrain_verl.sweep import members
from posttrain_verl.sweep.members import Member, Record, Result
from posttrain_verl.terminal.console import stdout


@dataclass(frozen=True)
class Row:
    """A member with what it measured. `p` is that of no difference to the best member, corrected by Holm's method."""

    member: Member
    result: Result | None
    p: float | None = None
    is_best: bool = False
    is_equal: bool = False  # to the best one, of which no test can tell it apart

    @property
    def interval(self) -> Share | Mean | None:
        """The accuracy or held-out reward with its interval; None for what has one number a run."""
        if not self.result or not self.result.items:
            return None
        values = list(self.result.items.values())
        return significance.share(values) if self.result.is_accuracy else significance.mean_interval(values)

    @property
    def verdict(self) -> str:
        if self.is_best:
            return "best"
        if self.p is None:
            return "equal" if self.is_equal else "-"
        return f"worse (p = {self.p:.2g})" if self.p < significance.ALPHA else f"noise (p = {self.p:.2g})"

    @property
    def value(self) -> str:
        return "-" if self.result is None else str(self.interval or f"{self.result.value:.4g}")


def rank_members(record: Record) -> list[Row]:
    """The members, the best first and those that measured nothing last. Each is compared with the best."""
    found = [(member, members.read_result(Path(member.folder))) for member in record.members]
    found.sort(key=lambda pair: (pair[1] is None, pair[1] and -pair[1].goodness, pair[0].number))
    best = found[0][1]
    if best is None:
        return [Row(member, None) for member, _ in found]
    same = [(member, result) for member, result in found[1:] if result and result.measure == best.measure]
    tests = {member.number: _p_value(best, result) for member, result in same if best.items and result.items}
    corrected = dict(zip(tests, significance.holm(list(tests.values())), strict=True))
    first = Row(found[0][0], best, is_best=True)
    equal = {member.number for member, result in same if not best.items and result.value == best.value}
    return [first, *(Row(member, result, corrected.get(member.number), is_equal=member.number in equal)
                     for member, result in found[1:])]  # fmt: skip


def _p_value(best: Result, other: Result) -> float:
    """The p of no difference: paired on the same questions, else of two proportions (z test, by statsmodels) or of two means
    (Welch's test, by scipy)."""
    if best.items.keys() == other.items.keys():
        p = significance.paired(best.items, other.items).p
        return 0.0 if math.isnan(p) else p  # the same difference on every question
    if not best.is_accuracy:
        one, two = list(best.items.values()), list(other.items.values())
        if len(set(one)) == len(set(two)) == 1:  # no variance
            return float(one[0] == two[0])
        p = float(scipy.stats.ttest_ind(one, two, equal_var=False).pvalue)
        return 1.0 if math.isnan(p) else p  # one question
    from statsmodels.stats.proportion import proportions_ztest  # half a second, which most verbs need not pay for

    right = [sum(result.items.values()) for result in (best, other)]
    sizes = [len(result.items) for result in (best, other)]
    if sum(right) in (0, sum(sizes)):  # no variance: all wrong or all right on both
        return 1.0
    return float(proportions_ztest(right, sizes)[1])


def conclude_sweep(record: Record, console: Console | None = None) -> None:
    """Print the table, and what to know when reading it."""
    found = rank_members(record)
    measures = sorted({row.result.measure for row in found if row.result}) or ["measure"]
    table = Table(title=f"sweep {record.id}: {len(found)} members")
    for name in ("#", "overrides", "state", "step", ", ".join(measures), "against the best"):
        table.add_column(name, overflow="fold")
    for row in found:
        step = str(row.result.step) if row.result else "-"
        state = f"{row.member.state}: {row.member.why}" if row.member.why else row.member.state
        overrides = " ".join(record.swept(row.member) or row.member.overrides)
        table.add_row(str(row.member.number), overrides, state, step, row.value, row.verdict)
    remarks = []
    if any(row.p is not None for row in found):
        remarks = [
            f"95 % intervals ({'Wilson' if found[0].result and found[0].result.is_accuracy else 'Student'}); tests paired on the "
            "same questions, corrected for the number of members (Holm).",
            "The best of several is flattered by chance: confirm it on questions it was not chosen on.",
        ]
    elif any(row.result for row in found):
        remarks = ["One number a run has no interval: repeat members with other seeds before believing a difference."]
    if undone := sum(row.member.state != DONE for row in found):
        remarks.append(f"{undone} not done; resume them: -m posttrain.sweep={record.id}")
    (console or stdout()).print(table, *remarks, sep="\n")
