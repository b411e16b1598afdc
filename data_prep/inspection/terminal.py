"""The cards in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from data_prep.inspection.cards import Card, difficulty

_MOST = 1200  # characters of one message shown


def show(
    console: Console, cards: Sequence[Card], manifest: dict[str, Any], dropped: dict[str, list[dict[str, Any]]]
) -> None:
    """Print the summary, every card, and the dropped rows."""
    console.print(_summary(manifest))
    for card in cards:
        console.print(_panel(card))
    for reason, rows in dropped.items():
        table = Table("source", "why", "question", title=f"dropped: {reason}", title_justify="left", show_lines=True)
        for row in rows:
            table.add_row(Text(row["source"]), Text(str(row["detail"])), Text(row["question"][:200]))
        console.print(table)


def _summary(manifest: dict[str, Any]) -> Table:
    table = Table("source", "read", "kept", "dropped", title=f"mix {manifest['mix'].get('name')}", title_justify="left")
    for name, entry in manifest["sources"].items():
        drops = ", ".join(f"{count} {reason}" for reason, count in entry["drops"].items())
        table.add_row(name, str(entry["rows_in"]), str(entry["rows_kept"]), drops or "none")
    return table


def _panel(card: Card) -> Panel:
    body = Text()
    for turn in card.messages:
        body.append(f"{turn['role']}: ", style="bold")
        content = turn["content"]
        body.append(content[:_MOST] + (f" ... {len(content)} characters" if len(content) > _MOST else "") + "\n")
    if card.gold is not None:
        body.append(f"gold: {card.gold[:_MOST]}", style="green")
        body.append("" if card.reward is None else f"   reward of the gold {card.reward['score']:g}")
        body.append("\n")
    for reason, detail in card.flags.items():
        body.append(f"flag {reason}: {detail}\n", style="bold red")
    info = card.info
    place = f"{card.split} #{info['index']}  {info['source']}  {info['id']}"
    title = f"{place}{difficulty(info['difficulty'])}  {card.tokens} tokens"
    return Panel(body, title=Text(title), title_align="left")
