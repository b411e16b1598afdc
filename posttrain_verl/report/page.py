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
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from data_prep.inspection import FORMULA_SCRIPTS
from posttrain_verl.evaluate.comparison import Comparison
from posttrain_verl.report import facts, findings
from posttrain_verl.report.facts import Fact
from posttrain_verl.report.findings import Tile
from posttrain_verl.report.rollouts import Rollouts
from posttrain_verl.report.run import MEANINGS, Evaluation, JsonObject, Run, dump_json

ASSETS = Path(__file__).parent / "assets"
REPORT = "report.html"  # the page of a run in its folder
STYLES = ("vendor/uPlot.min.css", "style.css")
_OWN = ("vendor/uPlot.iife.min.js", "blocks.js", "charts.js", "list.js", "reader.js", "live.js")
SCRIPTS = (*FORMULA_SCRIPTS, *(ASSETS / name for name in _OWN))
NBSP = "\u00a0"


@dataclass
class Part:
    """A run on the page with its curves and tables, or curves of several runs.

    `heading`, and `prefix` of the ids of its figures, are empty where it is the only one.
    """

    heading: str = ""
    prefix: str = ""
    figures: list[JsonObject] = field(default_factory=list)
    run: Run | None = None


@dataclass
class Member:
    """A run of a sweep or a stage of a pipeline.

    `value` is what it is judged by, and `verdict` how that stands to the best. `interval` is where low end, value and high end
    lie on a line from the worst of the sweep (0) to its best (1). `folder` names that of its run in a sweep, and `settings` are
    its values of the page's `swept` keys.
    """

    name: str
    state: str
    seconds: float | None
    run: Run | None
    folder: str = ""
    settings: list[str] = field(default_factory=list)
    value: str = ""
    verdict: str = ""
    why: str = ""
    interval: tuple[float, float, float] | None = None


@dataclass
class Page:
    """What the template shows. `sentences[0]` is the verdict; `members` are the runs of a sweep or the stages of a pipeline.

    `facts` say with a heading what was run, `swept` are the keys that a sweep varies, `scale` is what the line of its intervals
    reaches from and to, and `place` the folder that links begin at.
    """

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
    facts: list[tuple[str, list[Fact]]] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)
    scale: str = ""
    place: Path | None = None

    @property
    def name(self) -> str:
        """What the browser's tab says."""
        return f"{self.title}: {self.state}"

    @property
    def figures(self) -> list[JsonObject]:
        return [figure for part in self.parts for figure in part.figures]

    @property
    def marks(self) -> dict[str, list[JsonObject]]:
        """The steps that the curves of each part mark: where the watch warned or stopped."""
        found = {part.prefix: part.run.events if part.run else [] for part in self.parts}
        return {prefix: [{key: event.get(key) for key in ("step", "level", "rule")} for event in events
                         if event.get("level") in ("warn", "stop")] for prefix, events in found.items()}  # fmt: skip


def write_page(page: Page, out: Path) -> None:
    """Write the whole page, with styles, scripts, figures and rollouts: it asks for nothing else."""
    chunks = ((chunk.name, chunk.block) for chunk in page.rollouts.chunks)
    blocks = itertools.chain([("index", page.rollouts.index())], chunks)
    inlined = ((name, Markup(b64encode(block).decode())) for name, block in blocks)
    page.place = out.parent
    template = jinja_environment().get_template("page.html")
    stream = template.stream(inner="sections.html", title=page.name, page=page, live="", blocks=inlined)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f".{out.name}.{os.getpid()}")
    with scratch.open("wb") as file:
        stream.dump(file, encoding="utf-8")
    scratch.replace(out)


def is_outdated(folder: Path) -> bool:
    """Whether a run has no page in its folder, or wrote its status since."""
    made, status = folder / REPORT, folder / "status.json"
    return not made.is_file() or (status.is_file() and status.stat().st_mtime > made.stat().st_mtime)


@cache
def jinja_environment() -> jinja2.Environment:
    """The templates: `page.html` around `sections.html` of a page or `runs.html`, which change while runs last."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": findings.format_percent,
        "p_value": findings.format_p_value,
        "duration": findings.format_duration,
        "plan_rows": findings.plan_rows,
        "attempt_records": findings.attempt_records,
        "check_records": findings.check_records,
        "source_records": findings.source_records,
        "split_records": findings.split_records,
        "data": json_data,
        "glued": glue_figures,
        "time": facts.format_time,
        "link": link_to_run,
    }
    environment.globals |= {
        "style": _style_sheet,
        "scripts": _script_texts,
        "policy": security_policy,
        "error_kinds": MEANINGS,
    }
    return environment


def link_to_run(run: Run, page: Page, live: str | bool) -> str:
    """Where the page of a run lies, from the page it is linked on; "" where it has none.

    `serve` has a page for each run under the path of its folder. A file lies in the folder, if it was written.
    """
    if not live and not (run.path / REPORT).is_file():
        return ""
    way = os.path.relpath(run.path.absolute(), Path(page.folder).absolute() if live else page.place)
    return quote(f"{way}/" if live else f"{way}/{REPORT}")


def json_data(value: Any) -> Markup:
    """JSON that may stand in a script element, whatever texts it holds."""
    text = dump_json(value).decode()
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def glue_figures(text: str) -> str:
    """A sentence whose figures are not parted at the end of a line: `54.3 % [51.6, 57.0]`."""
    joined = re.sub(r"\[[^\]]*\]", lambda found: found.group().replace(" ", NBSP), text)
    return re.sub(r"(?<=\d) (?=%|points)|(?<=[%s]) (?=\[)|(?<=\b[np]) (?=[=<])|(?<=[=<]) (?=\d)", NBSP, joined)


@cache
def _style_sheet() -> Markup:
    return Markup("\n".join((ASSETS / name).read_text(encoding="utf-8") for name in STYLES))


@cache
def _script_texts() -> tuple[Markup, ...]:
    return tuple(Markup(file.read_text(encoding="utf-8")) for file in SCRIPTS)


@cache
def security_policy(connect: str) -> str:
    """The Content-Security-Policy: only these scripts run, and the page reaches nothing, or the server it came from.

    Rollouts are texts of a model: whatever they hold, the browser executes none of it.
    """
    digests = [hashlib.sha256(text.encode()).digest() for text in _script_texts()]
    hashes = " ".join(f"'sha256-{b64encode(digest).decode()}'" for digest in digests)
    return (f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
            f"connect-src '{connect}'; base-uri 'none'; form-action 'none'")  # fmt: skip
