"""What the page of a sweep says: its members as `sweep.table` judges them, under names that tell them apart."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain_verl import statistics
from posttrain_verl.reporting.files import Files
from posttrain_verl.sweep import table
from posttrain_verl.sweep.record import Record
from posttrain_verl.sweep.table import Row


def rows(files: Files) -> tuple[list[Row], list[str]]:
    """The members, the best first, and their names: the words that other members do not have."""
    try:
        record = Record.load(files.path)
    except (ValueError, TypeError, KeyError) as error:
        files.flaws.append(f"sweep.json cannot be read: {error}")
        return [], []
    try:
        found = table.rows(record)
    except ValueError as error:  # a validation file that is just being written
        files.flaws.append(f"the members cannot be compared now: {error}")
        found = [Row(member, None) for member in record.members]
    return found, [short(record.swept(row.member) or row.member.overrides) for row in found]


def short(words: Sequence[str]) -> str:
    """Words with the last part of their keys, where that does not make two alike."""
    pairs = [word.partition("=") for word in words]
    keys = [key.rsplit(".", 1)[-1] for key, _, _ in pairs]
    if len(set(keys)) < len(keys):
        return " ".join(words)
    return " ".join(f"{key}{equals}{value}" for key, (_, equals, value) in zip(keys, pairs, strict=True))


def sentences(found: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Which member stands best and how many others chance may explain; and that the best of many is partly luck."""
    best = found[0].result if found else None
    if best is None:
        return ["No run of this sweep has measured anything yet."]
    tested = [row.p for row in found if row.p is not None]
    worse = sum(p < statistics.ALPHA for p in tested)
    claim = f"Of {len(found)} runs {names[0]} ends best, with {best.measure} {found[0].value}"
    if not tested:
        claim += "; one number a run has no interval, so whether it is better is not known"
    elif worse:
        claim += f": {worse} of the others are worse, {len(tested) - worse} differ by no more than noise"
    else:
        claim = f"No run stands out: {names[0]} has {best.measure} {found[0].value}, and the others differ by no more than noise"
    return [f"{claim}.", "The best of several is flattered by chance: confirm it on questions it was not chosen on."]
