"""What is wrong with the rows of the data: rows that VeRL cannot read, and rows from which nothing can be learned.

A rule is a problem where VeRL would crash or would train on nothing, and a warning where single rows are wasted.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pyarrow as pa
from pyarrow import types

from data_prep.answer_marks import MARKS, describe_marks
from posttrain_verl.preflight import model, row_scans, rows
from posttrain_verl.preflight.row_scans import ANSWERS, Conversations, Hits
from posttrain_verl.terminal.problem import Problem, warning
from posttrain_verl.verl.composed import Composed
from posttrain_verl.verl.row_terms import RowRule

# Roles of other formats (ShareGPT, Gemini, Vicuna), which chat templates render as they stand or refuse.
FOREIGN_ROLES = {"human": "user", "prompter": "user", "gpt": ANSWERS, "chatgpt": ANSWERS, "bot": ANSWERS, "model": ANSWERS,
                 "bard": ANSWERS, "bing": ANSWERS, "ai": ANSWERS}  # fmt: skip
DROP = "drop these rows, or repair them"


def check_rows(composed: Composed, file: Path) -> Iterator[Problem]:
    """Problems of all rows of a file that has the columns of the stage."""
    settings, names = composed.settings, rows.read_schema(file)
    in_turns = [column for column in dict.fromkeys(chain(*settings.conversations))
                if rows.is_list(names.field(column).type)]  # fmt: skip
    for column in in_turns:
        yield from _check_conversations(composed, file, column)
        yield from _check_marks(file, column)
    as_text = [column for column in dict.fromkeys(chain(*settings.conversations)) if column not in in_turns]
    for column in as_text:
        if (hits := row_scans.count_nulls(file, column)).count:
            yield Problem(f"{column} is null in {_count(hits, file)}: VeRL cannot render it", DROP)
    if settings.rollout is None:
        endings = [columns[-1] for columns in settings.conversations if columns[-1] in in_turns]
        answering = [column for column in endings if ANSWERS in row_scans.scan_conversations(file, column).roles]
        for column in answering or endings[-1:]:  # a stage may keep questions in a column of their own
            yield from _check_answers(file, column)
    for rule in settings.row_rules:
        yield from _check_rule(file, rule)
    for column, kind in settings.columns.items():
        if kind == "truth" and (hits := row_scans.count_nulls(file, column)).count:
            yield Problem(
                f"{column} is null in {_count(hits, file)}: VeRL's reward manager reads its ground_truth", DROP
            )
    for column, (_, may_be_null) in settings.side_columns.items():
        if not may_be_null and column in names.names and (hits := row_scans.count_nulls(file, column)).count:
            yield Problem(
                f"{column} is null in {_count(hits, file)}: VeRL ends at such a row", f"{DROP}, or the column"
            )
    for column, mark in settings.media.items():
        if column in names.names:
            yield from _check_media(composed, file, names.field(column).type, column, mark)


def _check_rule(file: Path, rule: RowRule) -> Iterator[Problem]:
    """A rule of the stage over all rows."""
    hits, start = Hits(), 0
    for batch in rows.read_batches(file, rule.columns):
        hits.add(rule.breaks(batch), start)
        start += batch.num_rows
    if hits.count > rule.tolerated * start:
        is_problem = rule.blocks or (hits.count == start and not rule.tolerated)
        yield Problem(f"{rule.what} in {_count(hits, file)}", rule.remedy, "problem" if is_problem else "warning")


def _count(hits: Hits, file: Path) -> str:
    return hits.describe(rows.count_rows(file), "rows of", file)


def _check_conversations(composed: Composed, file: Path, column: str) -> Iterator[Problem]:
    found = row_scans.scan_conversations(file, column)
    broken = {
        f"{column} is null": found.nulls,
        f"{column} has no turn": found.empty,
        f"{column} has a turn that is null": found.null_turns,
        f"{column} has a turn whose role is null": found.null_roles,
        f"{column} has a turn whose content is null": found.null_contents,
    }
    for what, hits in broken.items():
        if hits.count:
            yield Problem(f"{what} in {_count(hits, file)}: VeRL cannot render it", DROP)
    if composed.settings.rollout and found.blank_prompts.count:
        everywhere = found.blank_prompts.count == found.rows
        what = f"{column} asks nothing in {_count(found.blank_prompts, file)}: its turns are blank"
        yield Problem(what, DROP, "problem" if everywhere else "warning")
    for role, name in FOREIGN_ROLES.items():
        if role in found.roles and not _reported_as_answers(composed, found, name):
            what = (
                f"{column} has the role {role!r} in {_count(found.roles[role], file)}, which chat templates do not know"
            )
            yield warning(what, f"rename it {name!r}, unless the template of the model knows it")


def _reported_as_answers(composed: Composed, found: Conversations, name: str) -> bool:
    return composed.settings.rollout is None and found.unanswered.count > 0 and name == ANSWERS


def _check_answers(file: Path, column: str) -> Iterator[Problem]:
    """VeRL takes the loss of the assistant's turns alone (MultiTurnSFTDataset)."""
    found = row_scans.scan_conversations(file, column)
    hits, foreign = found.unanswered, [role for role in found.roles if FOREIGN_ROLES.get(role) == ANSWERS]
    if hits.count:
        what = f"{column} has no turn of the role {ANSWERS} in {_count(hits, file)}: no token of it has a loss"
        remedy = DROP
        if foreign:
            said = ", ".join(repr(role) for role in sorted(foreign))
            what, remedy = f"{what}, and it has {said}", f"rename {said} to {ANSWERS!r}, and 'human' to 'user'"
        yield Problem(what, remedy, "problem" if foreign or hits.count == found.rows else "warning")
    if (hits := found.blank_answers).count:
        what = f"the {ANSWERS} says nothing in {_count(hits, file)}: such rows have no answer"
        yield Problem(what, DROP, "problem" if hits.count == found.rows else "warning")


def _check_marks(file: Path, column: str) -> Iterator[Problem]:
    """What the prompt asks the answer to stand in, against where the answer stands and what the row says of it."""
    found = row_scans.scan_marks(file, column, "extra_info" in rows.read_schema(file).names)
    for names, hits in found.unmet.items():
        what = f"the prompt asks for {describe_marks(names)}, and the {ANSWERS} uses none in {_count(hits, file)}"
        yield warning(what, "end these answers as the prompt asks: in a mix, `answer` of its prompts does so")
    for name, hits in found.odd.items():
        asks = f"the prompt does not ask for {MARKS[name]}"
        what = f"extra_info.answer_mark is {name}, and {asks} in {_count(hits, file)}"
        remedy = "our rewards pay such rows for a marked answer only: ask for the mark in the prompt, or write null"
        yield warning(what, remedy)


def _check_media(composed: Composed, file: Path, kind: pa.DataType, column: str, mark: str) -> Iterator[Problem]:
    """RL opens the pictures of rows that have some; SFT asks for a processor wherever the column is there."""
    if not (rows.is_list(kind) or types.is_null(kind)):
        yield warning(
            f"{file} has a column {column} of type {kind}: it was not looked at", "VeRL takes a list of each row"
        )
        return
    chat = composed.settings.conversations[0][0]
    found, reads = row_scans.scan_media(file, column, chat, mark), model.reads_media(composed)
    given = composed.settings.rollout is None
    if not found.there.count and not given:
        return
    if reads is None:
        yield warning(f"{file} has {column}, and whether {composed.model} reads them is not known here", "see its card")
    elif not reads:
        what = f"{column} are in {_count(found.there, file)}" if found.there.count else f"{file} has a column {column}"
        remedy = f"take a model that does, or drop the column {column}"
        yield Problem(f"{what}, and {composed.model} reads none: VeRL stops, for it has no processor", remedy)
    else:
        if given and found.nulls.count:
            yield Problem(f"{column} is null in {_count(found.nulls, file)}", "write an empty list there")
        if found.unmarked.count:
            what = f"the text has another number of {mark} than the row has {column} in {_count(found.unmarked, file)}"
            yield Problem(f"{what}: VeRL asserts that they agree", f"write {mark} once for each of them")
