"""The cards as one HTML page without any outside file: formulas become MathML, which browsers render by themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from latex2mathml.converter import convert
from latex2mathml.exceptions import (
    DenominatorNotFoundError,
    DoubleSubscriptsError,
    DoubleSuperscriptsError,
    ExtraLeftOrMissingRightError,
    MissingEndError,
    MissingSuperScriptOrSubscriptError,
    NoAvailableTokensError,
    NumeratorNotFoundError,
)

from data_prep.filters.latex import flaw
from data_prep.inspection.cards import Card, Histogram, difficulty

_REFUSED = (
    DenominatorNotFoundError, DoubleSubscriptsError, DoubleSuperscriptsError, ExtraLeftOrMissingRightError,
    MissingEndError, MissingSuperScriptOrSubscriptError, NoAvailableTokensError, NumeratorNotFoundError,
    IndexError, KeyError, ValueError,
)  # fmt: skip
_MATH = re.compile(
    r"\$\$(?P<display>.+?)\$\$|\\\[(?P<square>.+?)\\\]|\\\((?P<round>.+?)\\\)"
    r"|(?<![\\$])\$(?P<inline>(?=[^$\n]*[\\^_=+a-zA-Z{])[^$\n]+?)(?<!\\)\$(?!\d)|(?P<boxed>\\boxed\{(?:[^{}]|\{[^{}]*\})+\})",
    re.DOTALL,
)
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #ccc}
table{border-collapse:collapse;margin:.6rem 0}
td,th{border:1px solid #ccc;padding:.2rem .6rem;text-align:left;vertical-align:top}
.card{border:1px solid #bbb;border-radius:6px;margin:1rem 0;padding:.6rem 1rem}.head{color:#555;font-size:.85rem}
.role{font-weight:600;color:#245}.turn{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3rem 0}
.gold{color:#060}.flag{color:#a00;font-weight:600}.raw{font-family:monospace;background:#fee}
.tokens{white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.6 monospace;background:#f6f6f6;padding:.5rem}
.trained{background:#cfe8cf}svg rect{fill:#47a}svg text{font-size:10px;fill:#333}summary{cursor:pointer;color:#245}
"""


def with_math(text: str) -> str:
    """Escaped HTML of a text, its LaTeX formulas as MathML; a formula that does not parse stays as marked source."""
    parts, at = [], 0
    for found in _MATH.finditer(text):
        parts.append(escape(text[at : found.start()]))
        parts.append(_formula(next(group for group in found.groups() if group is not None), found.group()))
        at = found.end()
    return "".join(parts) + escape(text[at:])


def _formula(latex: str, source: str) -> str:
    if flaw(f"${latex}$"):
        return _raw(source)
    try:
        return convert(latex, display="block" if source.startswith(("$$", "\\[")) else "inline")
    except _REFUSED:
        return _raw(source)


def _raw(source: str) -> str:
    return f'<span class="raw" title="this formula does not parse">{escape(source)}</span>'


def page(
    cards: Sequence[Card],
    manifest: dict[str, Any],
    dropped: dict[str, list[dict[str, Any]]],
    lengths: Sequence[Histogram],
    tokenizer: str,
) -> str:
    """The whole page."""
    name = escape(str(manifest["mix"].get("name")))
    sections = [
        f"<h1>Mix {name}</h1>{_inspected(manifest)}{_sources(manifest)}{_overlap(manifest)}",
        f"<h2>Lengths (bytes of text a row)</h2>{''.join(map(_chart, lengths))}",
        f"<h2>{len(cards)} rows</h2><p>Template and tokens of {escape(tokenizer)}; green is what the loss counts.</p>",
        *map(_card, cards),
        "<h2>Dropped rows</h2>",
        *(_dropped(reason, rows, manifest) for reason, rows in dropped.items()),
    ]
    head = f'<meta charset="utf-8"><title>Mix {name}</title><style>{_STYLE}</style>'
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(sections)}</body></html>\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows]
    titles = "".join(f"<th>{cell}</th>" for cell in head)
    return f"<table><tr>{titles}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _inspected(manifest: dict[str, Any]) -> str:
    said = [f"{entry['who']}, {entry['when']}" for entry in manifest["inspected"]]
    return f"<p>Approved by: {escape('; '.join(said) or 'nobody yet')}</p>"


def _sources(manifest: dict[str, Any]) -> str:
    rows = [
        (name, entry["kind"], entry["licence"], entry["rows_in"], entry["rows_kept"],
         ", ".join(f"{count} {reason}" for reason, count in entry["drops"].items()))
        for name, entry in manifest["sources"].items()
    ]  # fmt: skip
    return _table(("source", "kind", "licence", "read", "kept", "dropped"), rows)


def _overlap(manifest: dict[str, Any]) -> str:
    rows = [
        (name, ", ".join(f"{count} rows share {size}" for size, count in entry["rows_by_overlap"].items()),
         entry["dropped"], entry["left_in"], "; ".join(example["span"] for example in entry["examples"][:5]))
        for name, entry in manifest["overlap"].items()
    ]  # fmt: skip
    return _table(("evaluation set", "overlap", "dropped", "left in", "shared spans"), rows) if rows else ""


def _chart(lengths: Histogram) -> str:
    top, width, height = max(1, int(lengths.counts.max())), 20, 90
    bars = "".join(
        f'<rect x="{number * width}" y="{height - height * count / top:.1f}" width="{width - 2}" '
        f'height="{height * count / top:.1f}"><title>{low:.0f} to {high:.0f} bytes: {count} rows</title></rect>'
        for number, (count, low, high) in enumerate(
            zip(lengths.counts, lengths.edges[:-1], lengths.edges[1:], strict=True)
        )
    )
    ends = f"{lengths.edges[0]:.0f} to {lengths.edges[-1] - 1:.0f} bytes, {int(lengths.counts.sum())} rows"
    wide = width * len(lengths.counts)
    label = f'<text x="0" y="{height + 14}">{lengths.split}: {ends}</text>'
    return f'<svg role="img" aria-label="{lengths.split}" width="{wide}" height="{height + 20}">{bars}{label}</svg><br>'


def _card(card: Card) -> str:
    info = card.info
    facts = (
        card.split,
        f"#{info['index']}",
        info["source"],
        info["id"],
        difficulty(info["difficulty"]).strip(),
        f"{card.tokens} tokens",
    )
    turns = "".join(
        f'<div class="turn"><span class="role">{escape(turn["role"])}</span> {with_math(turn["content"])}</div>'
        for turn in card.messages
    )
    reward = "" if card.reward is None else f" &nbsp; reward of the gold: {card.reward['score']:g}"
    gold = "" if card.gold is None else f'<div class="gold">gold: {escape(card.gold[:2000])}{reward}</div>'
    flags = "".join(
        f'<div class="flag">{escape(reason)}: {escape(detail)}</div>' for reason, detail in card.flags.items()
    )
    pieces = "".join(
        f'<span class="trained">{escape(text)}</span>' if trained else escape(text)
        for text, trained, _ in card.rendered
    )
    template = f'<details><summary>templated text</summary><div class="tokens">{pieces}</div></details>'
    head = escape(" · ".join(filter(None, facts)))
    return f'<div class="card"><div class="head">{head}</div>{turns}{gold}{flags}{template}</div>'


def _dropped(reason: str, rows: Sequence[dict[str, Any]], manifest: dict[str, Any]) -> str:
    total = sum(entry["drops"].get(reason, 0) for entry in manifest["sources"].values())
    table = _table(
        ("source", "id", "why", "question"), [(r["source"], r["id"], r["detail"], r["question"][:300]) for r in rows]
    )
    return f"<details><summary>{escape(reason)}: {total} rows</summary>{table}</details>"
