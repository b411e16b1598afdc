"""The rows to look at before training, in a terminal or as one HTML page that needs no other file.

Rows are drawn by source, split and difficulty, and shown with their flags, their reward and the templated text. On the page
formulas become MathML, which browsers render by themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import Markup
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

import reward_fns
from data_prep import filters
from data_prep.answer_marks import find_marks
from data_prep.filters.case import Case
from data_prep.filters.gold import has_grader
from data_prep.fingerprint import mix_bits, row_keys
from data_prep.manifest import describe_drops
from data_prep.parquet import DROPPED
from data_prep.schema import Messages, row_kind, split_names
from reward_fns.own import OwnReward, RewardError, render_gold

# Messages to (text, whether the loss counts it, number of tokens) in order.
# The text of RL rows ends where the model begins.
Template = Callable[[Messages], Sequence[tuple[str, bool, int]]]
HISTOGRAM_BINS = 24
LONGEST_MESSAGE = 1200  # characters of one message shown in the terminal


@dataclass(frozen=True)
class Card:
    """One row to look at. `beside` is what its kind holds beside the conversation `messages`, by column. `flags` are reasons
    with details, `reward` the grade of the gold by its own reward (None without either, and for code), `rendered` the pieces of
    the templated text with whether they are trained on and their tokens."""

    split: str
    row: dict[str, Any]
    messages: Messages
    beside: dict[str, Messages]
    gold: str | None
    flags: dict[str, str]
    reward: dict[str, Any] | None
    rendered: Sequence[tuple[str, bool, int]]

    @property
    def info(self) -> dict[str, Any]:
        return self.row["extra_info"]

    @property
    def tokens(self) -> int:
        return sum(piece[2] for piece in self.rendered)


def draw_cards(
    folder: Path, per_source: int, seed: int, template: Template, own: OwnReward | None = None
) -> list[Card]:
    """`per_source` rows of each source in each split, spread over its range of difficulty; `own` grades in place of ours."""
    cards = []
    for split in split_names():
        path = folder / f"{split}.parquet"
        if path.is_file():
            table = pq.read_table(path)
            rows = table.take(pa.array(_choose_rows(table, per_source, seed))).to_pylist()
            cards += [make_card(split, row, template, own) for row in rows]
    return cards


def _choose_rows(table: pa.Table, per_source: int, seed: int) -> np.ndarray:
    info = table["extra_info"].combine_chunks()
    source, difficulty = info.field("source"), info.field("difficulty").fill_null(0.0).to_numpy(zero_copy_only=False)
    order = mix_bits(row_keys(info.field("id")) ^ mix_bits(np.array([seed], dtype=np.uint64)))
    chosen = []
    for name in pc.unique(source).sort():
        mine = np.flatnonzero(pc.equal(source, name).to_numpy(zero_copy_only=False))
        ranked = mine[np.lexsort((order[mine], difficulty[mine]))]
        strata = np.array_split(ranked, min(per_source, len(ranked)))
        chosen += [stratum[np.argmin(order[stratum])] for stratum in strata]
    return np.array(chosen, dtype=np.int64)


def make_card(split: str, row: dict[str, Any], template: Template, own: OwnReward | None = None) -> Card:
    kind = row_kind(split)
    messages, gold = kind.conversation(row), kind.gold(row)
    solution = messages[-1]["content"] if messages[-1]["role"] == "assistant" else None
    question = next((turn["content"] for turn in messages if turn["role"] == "user"), "")
    asked = find_marks("\n".join(turn["content"] for turn in messages if turn["role"] != "assistant"))
    flags = filters.find_reasons(Case(question, gold, solution, row["data_source"], row["ability"], asked=asked))
    reward = None
    if gold is not None and row["ability"] != "code":
        reward, why = _grade_gold(row, gold, own)
        flags |= {"reward": why} if why else {}
    return Card(split, row, messages, kind.beside(row), gold, flags, reward, template(messages))


def _grade_gold(row: dict[str, Any], gold: str, own: OwnReward | None) -> tuple[dict[str, Any] | None, str]:
    """The grade of a gold by its own reward; None where there is no reward for it, or with the reason that it failed."""
    if own:
        facts = row["extra_info"]
        try:
            return own.grade(row["data_source"], render_gold(gold, facts.get("answer_mark")), gold, facts), ""
        except RewardError as error:
            return None, str(error)
    if not has_grader(row["data_source"]):
        return None, ""
    return reward_fns.grade(row["data_source"], f"\\boxed{{{gold}}}", gold), ""


@dataclass(frozen=True)
class Histogram:
    """How many rows of a split have how many bytes of text: `counts[i]` between `edges[i]` and `edges[i + 1]`."""

    split: str
    edges: np.ndarray
    counts: np.ndarray


def length_histograms(folder: Path) -> list[Histogram]:
    """The lengths of all rows, a split at a time, in equal steps of their logarithm."""
    found = []
    for split in split_names():
        path, columns = folder / f"{split}.parquet", row_kind(split).shown
        parts = [np.empty(0, dtype=np.int64)]
        for batch in pq.ParquetFile(path).iter_batches(columns=list(columns)) if path.is_file() else ():
            parts.append(np.sum([_text_bytes(batch[column]) for column in columns], axis=0))
        lengths = np.concatenate(parts)
        if len(lengths):
            edges = np.geomspace(max(1, lengths.min()), lengths.max() + 1, HISTOGRAM_BINS + 1)
            found.append(Histogram(split, edges, np.histogram(lengths, edges)[0]))
    return found


def _text_bytes(turns: pa.Array) -> np.ndarray:
    """The bytes that each row of a column of messages says."""
    per_turn = pc.binary_length(pc.struct_field(turns.flatten(), "content")).to_numpy(zero_copy_only=False)
    offsets = turns.offsets.to_numpy() - turns.offsets[0].as_py()
    return np.add.reduceat(per_turn, offsets[:-1]) if len(per_turn) else np.empty(0, dtype=np.int64)


def read_dropped(folder: Path, per_reason: int) -> dict[str, list[dict[str, Any]]]:
    """Dropped rows of a build, some of each reason. None where nothing was built."""
    path = folder / DROPPED
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(path).to_pylist() if path.is_file() else ():
        rows.setdefault(row["reason"], []).append({"dropped_from": "all", **row})  # older builds do not say
    return {reason: kept[:per_reason] for reason, kept in sorted(rows.items())}


def print_cards(
    console: Console, cards: Sequence[Card], manifest: dict[str, Any], dropped: dict[str, list[dict[str, Any]]]
) -> None:
    title = f"mix {manifest['mix'].get('name')}"
    summary = Table("source", "read", "kept", "dropped", title=title, title_justify="left")
    for name, entry in manifest["sources"].items():
        summary.add_row(name, str(entry["rows_in"]), str(entry["rows_kept"]), describe_drops(entry) or "none")
    console.print(summary)
    for card in cards:
        console.print(_card_panel(card))
    print_dropped(console, dropped)


def print_dropped(console: Console, dropped: dict[str, list[dict[str, Any]]]) -> None:
    """A table for each reason to drop rows."""
    for reason, rows in dropped.items():
        table = Table(
            "source", "from", "why", "question", title=f"dropped: {reason}", title_justify="left", show_lines=True
        )
        for row in rows:
            why, question = str(row["detail"])[:200], row["question"][:200]
            table.add_row(*map(Text, (row["source"], row["dropped_from"], why, question)))
        console.print(table)


def _count_dropped(manifest: dict[str, Any], reason: str) -> int:
    """The rows that a reason dropped from at least one split, as far as the manifest tells."""
    return sum(
        entry["drops"].get(reason, 0)
        + max((drops.get(reason, 0) for drops in entry.get("unfit", {}).values()), default=0)
        for entry in manifest["sources"].values()
    )


def _card_panel(card: Card) -> Panel:
    body = Text()
    beside = [(column, turn) for column, messages in card.beside.items() for turn in messages]
    for said_by, turn in [*((turn["role"], turn) for turn in card.messages), *beside]:
        body.append(f"{said_by}: ", style="bold")
        content = turn["content"]
        rest = f" ... {len(content)} characters" if len(content) > LONGEST_MESSAGE else ""
        body.append(content[:LONGEST_MESSAGE] + rest + "\n")
    if card.gold is not None:
        body.append(f"gold: {card.gold[:LONGEST_MESSAGE]}", style="green")
        body.append("" if card.reward is None else f"   reward of the gold {card.reward['score']:g}")
        body.append("\n")
    for reason, detail in card.flags.items():
        body.append(f"flag {reason}: {detail}\n", style="bold red")
    info = card.info
    difficulty = "" if info["difficulty"] is None else f"  difficulty {info['difficulty']:.3g}"
    title = f"{card.split} #{info['index']}  {info['source']}  {info['id']}{difficulty}  {card.tokens} tokens"
    return Panel(body, title=Text(title), title_align="left")


ASSETS = Path(__file__).parent / "assets"
# The formulas of this page and of the report (`posttrain_verl.report`): KaTeX, and what finds them in a text.
FORMULA_SCRIPTS = (ASSETS / "katex.min.js", ASSETS / "mathematics.js")


def render_page(
    cards: Sequence[Card],
    manifest: dict[str, Any],
    dropped: dict[str, list[dict[str, Any]]],
    lengths: Sequence[Histogram],
    tokenizer: str,
) -> str:
    """One HTML page with its styles and scripts."""
    loader = jinja2.FileSystemLoader(ASSETS)
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return page.get_template("inspection.html").render(
        cards=cards,
        manifest=manifest,
        dropped=dropped,
        lengths=lengths,
        lost={name: describe_drops(entry) for name, entry in manifest["sources"].items()},
        counts={reason: _count_dropped(manifest, reason) for reason in dropped},
        tokenizer=tokenizer,
        scripts=[Markup(file.read_text(encoding="utf-8")) for file in FORMULA_SCRIPTS],
    )
