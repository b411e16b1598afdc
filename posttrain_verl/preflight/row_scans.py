"""What stands in the rows of a data file, from the first row to the last.

Work is done by Arrow and numpy on whole columns, so that 100,000 rows take about a second.
"""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from data_prep.answer_marks import MARKS
from posttrain_verl.preflight.rows import Row, is_list, is_text, read_batches

SHAPES = 500  # orders of turns of one column that are kept, each with an example
LONGEST = 50  # rows with the most bytes that are kept

Mask = np.ndarray


@dataclass
class Hits:
    """How many rows something is true of, and the first of them."""

    count: int = 0
    first: int = -1

    def add(self, rows: Mask, start: int) -> None:
        """`rows` says of each row of a batch whether it is true; the batch begins with row `start`."""
        if found := int(np.count_nonzero(rows)):
            self.first = self.first if self.count else start + int(np.argmax(rows))
            self.count += found

    def describe(self, total: int, what: str, file: Path) -> str:
        """e.g. "3 of 100 rows of FILE (the first is row 7, counted from 0)"."""
        share = f"all {total}" if self.count == total else f"{self.count} of {total}"
        return f"{share} {what} {file} (the first is row {self.first}, counted from 0)"


@dataclass
class Shape:
    """An order of turns: their roles, and which have text. `example` is its first row."""

    example: list[Row]
    hits: Hits


@dataclass
class Conversations:
    """What a column of messages holds.

    - `nulls`, `empty`: rows without messages. `null_turns`, `null_roles`, `null_contents`: rows with such a turn. A turn that
      holds something else, e.g. a call of a tool, may have null content.
    - `unanswered`: rows without a turn of the assistant. `blank_answers`: rows whose assistant never says anything.
    - `blank_prompts`: rows in which nothing is said but by the system, or nothing at all.
    - `roles`: the rows in which each role speaks.
    - `shapes`: each order of turns among rows without nulls; `more_shapes`: rows of orders beyond the first SHAPES.
    - `longest`: (bytes of text, row) of the rows with the most text.
    """

    rows: int = 0
    nulls: Hits = field(default_factory=Hits)
    empty: Hits = field(default_factory=Hits)
    null_turns: Hits = field(default_factory=Hits)
    null_roles: Hits = field(default_factory=Hits)
    null_contents: Hits = field(default_factory=Hits)
    unanswered: Hits = field(default_factory=Hits)
    blank_answers: Hits = field(default_factory=Hits)
    blank_prompts: Hits = field(default_factory=Hits)
    roles: dict[str, Hits] = field(default_factory=dict)
    shapes: dict[int, Shape] = field(default_factory=dict)
    more_shapes: Hits = field(default_factory=Hits)
    longest: list[tuple[int, int]] = field(default_factory=list)


ANSWERS = "assistant"  # the role whose turns VeRL trains on
_NULL, _BLANK, _TEXT, _PARTS = range(4)  # what a turn's content is


def scan_conversations(file: Path, column: str) -> Conversations:
    """All rows of a column of messages. The same file is read once."""
    return _scan_conversations(file, file.stat().st_mtime_ns, column)


@lru_cache(maxsize=32)
def _scan_conversations(file: Path, changed: int, column: str) -> Conversations:
    found, codes = Conversations(), dict[str | None, int]()
    for batch in read_batches(file, [column]):
        _scan_batch(found, codes, batch.column(0))
        found.rows += batch.num_rows
    found.longest = sorted(found.longest, reverse=True)
    return found


def _scan_batch(found: Conversations, codes: dict[str | None, int], cells: pa.Array) -> None:
    rows, start = len(cells), found.rows
    parents = pc.list_parent_indices(cells).to_numpy(zero_copy_only=False)
    turns = pc.list_flatten(cells)
    turn_nulls = _nulls(turns)
    roles, contents = (plain_array(pc.struct_field(turns, name)) for name in ("role", "content"))
    role, state, extra = _role_codes(roles, codes), _content_states(contents), _has_more(turns)

    def any_turn(turns: Mask) -> Mask:
        return np.bincount(parents[turns], minlength=rows) > 0

    null, has_turns = _nulls(cells), np.bincount(parents, minlength=rows) > 0
    says = ((state == _TEXT) | (state == _PARTS) | extra) & ~turn_nulls
    answers, system = role == codes.get(ANSWERS, -2), role == codes.get("system", -2)
    role_nulls, content_nulls = _nulls(roles) & ~turn_nulls, (state == _NULL) & ~extra & ~turn_nulls
    answered, said = any_turn(answers), any_turn(says)
    for hits, mask in (
        (found.nulls, null),
        (found.empty, ~null & ~has_turns),
        (found.null_turns, any_turn(turn_nulls)),
        (found.null_roles, any_turn(role_nulls)),
        (found.null_contents, any_turn(content_nulls)),
        (found.unanswered, has_turns & ~answered),
        (found.blank_answers, answered & ~any_turn(answers & (says | (state == _NULL)))),
        (found.blank_prompts, has_turns & ~any_turn(says & ~system) & ~(said & ~any_turn(~system))),
    ):
        hits.add(mask, start)
    for name, code in codes.items():
        if name is not None and (speaks := role == code).any():
            found.roles.setdefault(name, Hits()).add(any_turn(speaks), start)
    sound = has_turns & ~any_turn(turn_nulls | role_nulls | content_nulls)
    _add_shapes(found, cells, sound, parents, role * 8 + state * 2 + extra)
    _add_longest(found, contents, parents, rows)


def _add_shapes(found: Conversations, cells: pa.Array, sound: Mask, parents: Mask, kinds: Mask) -> None:
    """Rows with the same kinds of turns in the same order get the same number, the sum of a hash of each turn and its place."""
    places = np.arange(len(parents)) - np.searchsorted(parents, parents)
    first, second, third = (np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xBF58476D1CE4E5B9))
    hashed = (kinds + 2).astype(np.uint64) * first ^ (places + 1).astype(np.uint64) * second
    hashed = (hashed ^ hashed >> np.uint64(29)) * third
    sums = np.zeros(len(parents) + 1, dtype=np.uint64)
    np.cumsum(hashed ^ hashed >> np.uint64(32), out=sums[1:])
    ends = np.searchsorted(parents, np.arange(len(cells)), side="right")
    starts = np.searchsorted(parents, np.arange(len(cells)), side="left")
    numbers = np.where(sound, sums[ends] - sums[starts], np.uint64(0))
    for number, row, count in zip(*np.unique(numbers, return_index=True, return_counts=True), strict=True):
        if not sound[row]:
            continue  # all rows with a null
        shape = found.shapes.get(int(number))
        if shape is None and len(found.shapes) < SHAPES:
            shape = found.shapes[int(number)] = Shape(cells[int(row)].as_py(), Hits())
        hits = found.more_shapes if shape is None else shape.hits
        hits.first = hits.first if hits.count else found.rows + int(row)
        hits.count += int(count)


def _add_longest(found: Conversations, contents: pa.Array, parents: Mask, rows: int) -> None:
    if not is_text(contents.type):
        return
    sizes = pc.fill_null(pc.binary_length(contents), 0).to_numpy(zero_copy_only=False)
    totals = np.bincount(parents, weights=sizes, minlength=rows)
    largest = np.argsort(totals, kind="stable")[-LONGEST:]
    pairs = [(int(totals[row]), found.rows + int(row)) for row in largest]
    found.longest = heapq.nlargest(LONGEST, [*found.longest, *pairs])


def _role_codes(roles: pa.Array, codes: dict[str | None, int]) -> Mask:
    """A number for each role; -1 is null. `codes` grows."""
    encoded = roles.cast(pa.large_string()).dictionary_encode()
    table = [codes.setdefault(name, len(codes)) for name in encoded.dictionary.to_pylist()]
    places = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    return np.array([*table, -1], dtype=np.int64)[places]


def _content_states(contents: pa.Array) -> Mask:
    """What each content is: _NULL, _BLANK, _TEXT, or _PARTS for anything else that is there."""
    state = np.full(len(contents), _PARTS)
    if is_text(contents.type):
        state = np.where(has_text(contents), _TEXT, _BLANK)
    elif is_list(contents.type):
        lengths = pc.fill_null(pc.list_value_length(contents), 0).to_numpy(zero_copy_only=False)
        state = np.where(lengths > 0, _PARTS, _BLANK)
    return np.where(_nulls(contents), _NULL, state)


def _has_more(turns: pa.Array) -> Mask:
    """Whether a turn holds something beside role and content: a call of a tool, its reasoning."""
    more = np.zeros(len(turns), dtype=bool)
    for each in turns.type:
        if each.name not in ("role", "content"):
            cells = plain_array(pc.struct_field(turns, each.name))
            there = ~_nulls(cells)
            if is_list(cells.type):
                there &= pc.fill_null(pc.list_value_length(cells), 0).to_numpy(zero_copy_only=False) > 0
            elif is_text(cells.type):
                there &= has_text(cells)
            more |= there
    return more


def has_text(cells: pa.Array) -> Mask:
    """Which cells of a column of text hold more than white space. False for null."""
    return _matches(cells, r"\S")


def _matches(cells: pa.Array, pattern: str) -> Mask:
    return np.asarray(pc.fill_null(pc.match_substring_regex(cells, pattern), False).to_numpy(zero_copy_only=False))


def plain_array(cells: pa.Array) -> pa.Array:
    """A dictionary as the values that it stands for, and any kind of string as one that every function takes."""
    if isinstance(cells, pa.ChunkedArray):
        cells = cells.combine_chunks()
    if types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    return cells.cast(pa.large_string()) if types.is_string_view(cells.type) else cells


def _nulls(cells: pa.Array) -> Mask:
    return np.asarray(cells.is_null().to_numpy(zero_copy_only=False), dtype=bool)


@dataclass
class Golds:
    """What one data_source has for golds.

    `nulls` (also NaN, as pandas writes a null) and `blank` are rows without one, `void` rows with a text such as "None".
    `odd` are rows whose gold is none of these and not a plain number, up to KEPT_ODD.
    """

    rows: int = 0
    nulls: Hits = field(default_factory=Hits)
    blank: Hits = field(default_factory=Hits)
    void: Hits = field(default_factory=Hits)
    odd: list[int] = field(default_factory=list)


VOID = r"^(None|nan|NaN|null|NULL|<NA>)$"  # what str() and csv make of a missing value
PLAIN_NUMBER = r"^\s*-?[0-9]+(\.[0-9]+)?\s*$"
KEPT_ODD = 100_000  # row numbers, of which a sample is graded


def scan_golds(file: Path, source_column: str) -> dict[str, Golds]:
    """The golds of all rows, by data_source (`None` for null)."""
    found, start = dict[str, Golds](), 0
    for batch in read_batches(file, [source_column, "reward_model"]):
        sources = plain_array(batch.column(0)).cast(pa.large_string()).dictionary_encode()
        golds = plain_array(pc.struct_field(batch.column(1), "ground_truth"))
        null, none = _nulls(golds), np.zeros(len(golds), dtype=bool)
        blank, void, plain = none, none, none
        if types.is_floating(golds.type):
            null = null | np.isnan(golds.to_numpy(zero_copy_only=False))
        elif is_text(golds.type):
            blank = ~has_text(golds) & ~null
            void, plain = (_matches(golds, pattern) for pattern in (VOID, PLAIN_NUMBER))
        places = pc.fill_null(sources.indices, -1).to_numpy(zero_copy_only=False)
        for place in np.unique(places).tolist():
            here = places == place
            each = found.setdefault(str(sources.dictionary[place]) if place >= 0 else "None", Golds())
            each.rows += int(np.count_nonzero(here))
            each.nulls.add(here & null, start)
            each.blank.add(here & blank, start)
            each.void.add(here & void, start)
            room = KEPT_ODD - len(each.odd)
            each.odd += (np.flatnonzero(here & ~null & ~blank & ~plain)[:room] + start).tolist()
        start += batch.num_rows
    return found


@dataclass
class AskedMarks:
    """Where the answer of a row stands, against what its prompt asks for (names of `answer_marks.MARKS`).

    `unmet` are rows whose assistant uses none of the marks that the other turns ask for, by these marks; `odd` are rows whose
    `extra_info.answer_mark` is one that the conversation does not name, by that one.
    """

    unmet: dict[tuple[str, ...], Hits] = field(default_factory=dict)
    odd: dict[str, Hits] = field(default_factory=dict)


def scan_marks(file: Path, column: str, has_info: bool) -> AskedMarks:
    """All rows of a column of messages, and of `extra_info` where the file has it. Contents that are not text ask for nothing."""
    found, start = AskedMarks(), 0
    for batch in read_batches(file, [column, *(["extra_info"] if has_info else [])]):
        rows, turns = batch.num_rows, pc.list_flatten(batch.column(0))
        parents = pc.list_parent_indices(batch.column(0)).to_numpy(zero_copy_only=False)
        roles, contents = (plain_array(pc.struct_field(turns, name)) for name in ("role", "content"))
        if is_text(contents.type):
            answers = np.asarray(pc.fill_null(pc.equal(roles.cast(pa.large_string()), ANSWERS), False))
            # A regular expression is twenty times as fast as Arrow's search for a plain text.
            holds = {name: _matches(contents, re.escape(mark)) for name, mark in MARKS.items()}
            asked, used = (
                {name: np.bincount(parents[turn & side], minlength=rows) > 0 for name, turn in holds.items()}
                for side in (~answers, answers)
            )
            _add_unmet(found, asked, used, np.bincount(parents[answers], minlength=rows) > 0, start)
            if has_info:
                _add_odd(found, asked, batch.column(1), start)
        start += rows
    return found


def _add_unmet(found: AskedMarks, asked: dict[str, Mask], used: dict[str, Mask], answered: Mask, start: int) -> None:
    met = np.logical_or.reduce([asked[name] & used[name] for name in MARKS])
    codes = np.sum([asked[name] * 2**place for place, name in enumerate(MARKS)], axis=0)
    for code in np.unique(codes[answered & ~met & (codes > 0)]).tolist():
        names = tuple(name for place, name in enumerate(MARKS) if code >> place & 1)
        found.unmet.setdefault(names, Hits()).add((codes == code) & answered & ~met, start)


def _add_odd(found: AskedMarks, asked: dict[str, Mask], info: pa.Array, start: int) -> None:
    if types.is_struct(info.type) and info.type.get_field_index("answer_mark") >= 0:
        marks = plain_array(pc.struct_field(info, "answer_mark"))
        for name in MARKS if is_text(marks.type) else ():
            says = np.asarray(pc.fill_null(pc.equal(marks, name), False).to_numpy(zero_copy_only=False))
            if (odd := says & ~asked[name]).any():
                found.odd.setdefault(name, Hits()).add(odd, start)


def count_nulls(file: Path, column: str) -> Hits:
    """Rows in which a column is null."""
    hits, start = Hits(), 0
    for batch in read_batches(file, [column]):
        hits.add(_nulls(batch.column(0)), start)
        start += batch.num_rows
    return hits


@dataclass
class Media:
    """Pictures, videos or sounds in a column: rows that have some, rows that are null, rows whose text marks another number."""

    there: Hits = field(default_factory=Hits)
    nulls: Hits = field(default_factory=Hits)
    unmarked: Hits = field(default_factory=Hits)


def scan_media(file: Path, column: str, chat: str, mark: str) -> Media:
    """A column of lists beside the conversation, in whose text `mark` stands for each of their entries."""
    found, start = Media(), 0
    for batch in read_batches(file, [column, chat]):
        cells, talks = batch.column(0), batch.column(1)
        null = _nulls(cells)
        if types.is_null(cells.type):
            lengths = np.zeros(len(cells))
        else:
            lengths = pc.fill_null(pc.list_value_length(cells), 0).to_numpy(zero_copy_only=False)
        found.nulls.add(null, start)
        found.there.add(lengths > 0, start)
        contents = plain_array(pc.struct_field(pc.list_flatten(talks), "content"))
        if is_text(contents.type):
            parents = pc.list_parent_indices(talks).to_numpy(zero_copy_only=False)
            marks = pc.fill_null(pc.count_substring(contents, mark), 0).to_numpy(zero_copy_only=False)
            marked = np.bincount(parents, weights=marks, minlength=len(cells))
            found.unmarked.add((lengths > 0) & (marked != lengths), start)
        start += batch.num_rows
    return found
