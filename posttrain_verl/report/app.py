"""The web application of `serve`: the list of runs, and a page for each that follows its run."""

from __future__ import annotations

import asyncio
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from posttrain_verl.report import page, subjects
from posttrain_verl.report.page import Page
from posttrain_verl.report.run import JsonObject

# A page of another site may not read runs through a name that it points at this machine (DNS rebinding).
HOSTS = ["127.0.0.1", "localhost"]
WATCHED = ("*.json", "*.jsonl", "config.yaml", "eval/*.json", "rollouts/*.jsonl", "validation/*.jsonl")


class Gallery:
    """The runs below one folder. Of each page the newest build is kept, until a file of its run changes."""

    def __init__(self, home: Path):
        self.home = home
        self._reader = subjects.Reader()
        self._built: dict[Path, tuple[str, Page]] = {}
        self._rows: dict[Path, tuple[object, JsonObject]] = {}
        self._turn = asyncio.Lock()  # pages share the reader

    def rows(self) -> list[JsonObject]:
        """What the list says of each run, sweep and pipeline, newest first. One whose files did not change is not read again."""
        places = {path for depth in ("*/*", "pipeline/*/*", "multirun/*") for path in self.home.glob(depth)}
        found = [path for path in places if path.is_dir() and subjects.is_subject(path)]
        found.sort(key=_start_time, reverse=True)
        for folder in found:
            stamp = tuple(_file_stamp(folder / name) for name in subjects.MARKS)
            if self._rows.get(folder, (None, {}))[0] == stamp:
                continue
            one = self._reader.read(folder)
            kind, state = subjects.subject_kind(folder)
            planned = f" of {one.planned_steps:,}" if one.planned_steps else ""
            self._rows[folder] = stamp, {
                "link": folder.relative_to(self.home).as_posix(), "kind": kind, "state": state or one.state,
                "steps": "" if one.last_step is None else f"{one.last_step:,}{planned}",
                "seconds": one.seconds, "results": one.results(),
                "started": datetime.fromtimestamp(_start_time(folder)).strftime("%Y-%m-%d %H:%M"),
            }  # fmt: skip
        return [self._rows[folder][1] for folder in found]

    async def page(self, link: str) -> tuple[str, Page]:
        """The version and the page of a run by its path below `home`."""
        folder = self._folder(link)
        async with self._turn:
            version = await asyncio.to_thread(page_fingerprint, folder)
            known = self._built.get(folder)
            if known is None or known[0] != version:
                known = version, await asyncio.to_thread(self._reader.page, folder)
                self._built[folder] = known
        return known

    def block(self, link: str, name: str) -> bytes | None:
        """The index or a chunk of the page that was built last."""
        _, built = self._built.get(self._folder(link), ("", None))
        if built is None:
            return None
        if name == "index":
            return built.rollouts.index()
        return next((chunk.block for chunk in built.rollouts.chunks if chunk.name == name), None)

    def _folder(self, link: str) -> Path:
        folder = self.home / link
        if ".." in Path(link).parts or not subjects.is_subject(folder):
            raise HTTPException(404, f"there is no run {link}")
        return folder


def page_fingerprint(folder: Path) -> str:
    """Changes with every file that the page is made of. Of a sweep or pipeline the runs count, too.

    Of a run the evaluations of base models count, which lie beside the runs.
    """
    facts = sha256()
    watched = [(home, pattern) for home in (folder, *subjects.member_folders(folder)) for pattern in WATCHED]
    for home, pattern in (*watched, *((folder.parent.parent / "eval", each) for each in ("*.json", "*/*.json"))):
        for path in sorted(home.glob(pattern)):
            known = path.stat()
            facts.update(f"{path} {known.st_mtime_ns} {known.st_size}\n".encode())
    return f'"{facts.hexdigest()[:16]}"'


def make_application(home: Path) -> Starlette:
    gallery = Gallery(home)

    async def front(request: Request) -> Response:
        rows = await asyncio.to_thread(gallery.rows)
        version = f'"{sha256(repr(rows).encode()).hexdigest()[:16]}"'
        return _answer(request, "runs.html", f"Runs in {home}", version, runs=rows, home=str(home))

    async def one(request: Request) -> Response:
        version, built = await gallery.page(request.path_params["link"])
        return _answer(request, "sections.html", built.name, version, page=built)

    async def block(request: Request) -> Response:
        found = await asyncio.to_thread(gallery.block, request.path_params["link"], request.path_params["name"])
        if found is None:
            raise HTTPException(404, "the page was built anew since: load it again")
        keep = "no-store" if request.path_params["name"] == "index" else "private, max-age=3600, immutable"
        return Response(found, media_type="application/gzip", headers={"Cache-Control": keep})

    routes = [
        Route("/", front),
        Route("/sections", front),
        Route("/run/{link:path}/sections", one),
        Route("/run/{link:path}/block/{name}", block),
        Route("/run/{link:path}/", one),
    ]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)])


def _answer(request: Request, template: str, title: str, version: str, **values: Any) -> Response:
    """A page; or the sections that it asks for again, and 304 where it has this version of them."""
    templates = page.jinja_environment()
    if not request.url.path.endswith("/sections"):
        whole = templates.get_template("page.html")
        text = whole.render(inner=template, title=title, live=version, blocks=(), **values)
        return HTMLResponse(text, headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
    if request.headers.get("If-None-Match") == version:
        return Response(status_code=304, headers={"ETag": version})
    text = templates.get_template(template).render(live=True, **values)
    return HTMLResponse(text, headers={"ETag": version, "Cache-Control": "no-store"})


def _file_stamp(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_mtime_ns, facts.st_size


def _start_time(folder: Path) -> float:
    """When a run began: its config is written once. The mark of a sweep or pipeline is the next best."""
    marks = [folder / name for name in ("config.yaml", *subjects.MARKS)]
    return next((mark.stat().st_mtime for mark in marks if mark.is_file()), 0.0)
