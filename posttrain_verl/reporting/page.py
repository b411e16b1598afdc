"""One page for a run, a sweep or a pipeline: what stands in it, and its HTML."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from base64 import b64encode
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from posttrain_verl.evaluation import comparison
from posttrain_verl.evaluation.comparison import Comparison
from posttrain_verl.reporting import verdict
from posttrain_verl.reporting.evaluations import MEANINGS, Evaluation
from posttrain_verl.reporting.facts import Row, Tile
from posttrain_verl.reporting.files import Record
from posttrain_verl.reporting.rollouts import Rollouts
from posttrain_verl.reporting.run import Run
from posttrain_verl.reporting.series import dumps

ASSETS = Path(__file__).parent / "assets"
STYLES = ("vendor/uPlot.min.css", "style.css")
SCRIPTS = ("vendor/uPlot.iife.min.js", "vendor/katex.min.js", "blocks.js", "charts.js", "mathematics.js", "list.js",
           "reader.js", "live.js")  # fmt: skip
NBSP = "\u00a0"
REACH = {"none": "'none'", "self": "'self'"}


@dataclass
class Part:
    """A run on the page: its curves, and the tables that belong to it.

    `heading`, and `prefix` of the ids of its figures, are empty where it is the only one.
    """

    heading: str = ""
    prefix: str = ""
    figures: list[Record] = field(default_factory=list)
    events: list[Record] = field(default_factory=list)
    planned: list[Row] = field(default_factory=list)
    arithmetic: str = ""
    memory: list[Record] = field(default_factory=list)
    checks: list[Record] = field(default_factory=list)
    manifest: Record = field(default_factory=dict)
    sources: list[Record] = field(default_factory=list)
    splits: list[Record] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    changes: list[Record] = field(default_factory=list)
    config: str = ""


@dataclass
class Member:
    """A run of a sweep or a stage of a pipeline. `value` is what it is judged by, `verdict` how that stands to the best."""

    name: str
    state: str
    seconds: float | None
    run: Run | None
    value: str = ""
    verdict: str = ""
    why: str = ""


@dataclass
class Page:
    """What the template shows. `sentences[0]` is the verdict; `members` are the runs of a sweep or the stages of a pipeline."""

    kind: str
    title: str
    folder: str
    state: str
    sentences: list[str]
    tiles: list[Tile] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    compared: list[Comparison] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    rollouts: Rollouts = field(default_factory=Rollouts)
    flaws: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the browser's tab says."""
        return f"{self.title}: {self.state}"

    @property
    def figures(self) -> list[Record]:
        return [figure for part in self.parts for figure in part.figures]

    @property
    def marks(self) -> dict[str, list[Record]]:
        """The steps that the curves of each part mark: where the watch warned or stopped."""
        return {part.prefix: [{key: event.get(key) for key in ("step", "level", "rule")} for event in part.events
                              if event.get("level") in ("warn", "stop")] for part in self.parts}  # fmt: skip


def write(page: Page, out: Path) -> None:
    """Write the whole page, with styles, scripts, figures and rollouts: it asks for nothing else."""
    blocks = itertools.chain(
        [("index", page.rollouts.index())], ((chunk.name, chunk.block) for chunk in page.rollouts.chunks)
    )
    inlined = ((name, Markup(b64encode(block).decode())) for name, block in blocks)
    stream = (
        _environment()
        .get_template("page.html")
        .stream(inner="sections.html", title=page.name, page=page, live="", blocks=inlined)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f".{out.name}.{os.getpid()}")
    with scratch.open("wb") as file:
        stream.dump(file, encoding="utf-8")
    scratch.replace(out)


def served(inner: str, title: str, version: str, **values: Any) -> str:
    """A page for `serve`: it asks for rollouts when they are looked at, and for `inner` again when `version` is old."""
    template = _environment().get_template("page.html")
    return template.render(inner=inner, title=title, live=version, blocks=(), **values)


def inner(template: str, **values: Any) -> str:
    """The part of a served page that changes while runs go on: `sections.html` of a page, or `runs.html`."""
    return _environment().get_template(template).render(live=True, **values)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"interval": verdict.interval, "percent": verdict.percent, "points": comparison.points,
                            "p_value": verdict.p_value, "duration": verdict.duration, "data": data, "glued": glued}  # fmt: skip
    environment.globals |= {"style": _style, "scripts": _scripts, "policy": policy, "error_kinds": MEANINGS}
    return environment


def data(value: Any) -> Markup:
    """JSON that may stand in a script element, whatever texts it holds."""
    text = dumps(value).decode()
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def glued(text: str) -> str:
    """A sentence whose figures are not parted at the end of a line: `54.3 % [51.6, 57.0]`."""
    joined = re.sub(r"\[[^\]]*\]", lambda found: found.group().replace(" ", NBSP), text)
    return re.sub(r"(?<=\d) (?=%|points)|(?<=[%s]) (?=\[)|(?<=\b[np]) (?=[=<])|(?<=[=<]) (?=\d)", NBSP, joined)


@cache
def _style() -> Markup:
    return Markup("\n".join((ASSETS / name).read_text(encoding="utf-8") for name in STYLES))


@cache
def _scripts() -> tuple[Markup, ...]:
    return tuple(Markup((ASSETS / name).read_text(encoding="utf-8")) for name in SCRIPTS)


@cache
def policy(connect: str) -> str:
    """The Content-Security-Policy: only these scripts run, and the page reaches nothing, or the server it came from.

    Rollouts are texts of a model: whatever they hold, the browser executes none of it.
    """
    hashes = " ".join(f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in _scripts())
    return (f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
            f"connect-src {REACH[connect]}; base-uri 'none'; form-action 'none'")  # fmt: skip
